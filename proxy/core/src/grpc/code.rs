//! gRPC's status codes.

use std::fmt;

use http::{HeaderValue, StatusCode};

/// Keeps number, name and HTTP status of a code on one line each.
macro_rules! codes {
    ($($variant:ident, $number:literal, $text:literal, $http:literal;)*) => {
        /// How a call ended (gRPC's `statuscodes.md`).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $text] $variant,)*
        }

        impl Code {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// 0 to 16.
            pub const fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }

            /// The code of a number; `None` above 16.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// As in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The value of a `grpc-status` field.
            pub const fn header_value(self) -> HeaderValue {
                match self {
                    $(Self::$variant => HeaderValue::from_static(stringify!($number)),)*
                }
            }

            /// The HTTP status that means the same, to judge HTTP and gRPC by one measure; as `google/rpc/code.proto`
            /// has it. Never to be sent: gRPC's answers are 200.
            pub fn http_status(self) -> StatusCode {
                let status = match self {
                    $(Self::$variant => $http,)*
                };
                // All between 200 and 504.
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    };
}

codes! {
    Ok, 0, "OK", 200;
    Cancelled, 1, "CANCELLED", 499;
    Unknown, 2, "UNKNOWN", 500;
    InvalidArgument, 3, "INVALID_ARGUMENT", 400;
    DeadlineExceeded, 4, "DEADLINE_EXCEEDED", 504;
    NotFound, 5, "NOT_FOUND", 404;
    AlreadyExists, 6, "ALREADY_EXISTS", 409;
    PermissionDenied, 7, "PERMISSION_DENIED", 403;
    ResourceExhausted, 8, "RESOURCE_EXHAUSTED", 429;
    FailedPrecondition, 9, "FAILED_PRECONDITION", 400;
    Aborted, 10, "ABORTED", 409;
    OutOfRange, 11, "OUT_OF_RANGE", 400;
    Unimplemented, 12, "UNIMPLEMENTED", 501;
    Internal, 13, "INTERNAL", 500;
    Unavailable, 14, "UNAVAILABLE", 503;
    DataLoss, 15, "DATA_LOSS", 500;
    Unauthenticated, 16, "UNAUTHENTICATED", 401;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_from_0_to_16_and_back() {
        for (number, code) in (0..).zip(Code::ALL) {
            assert_eq!(code.number(), number);
            assert_eq!(Code::from_number(number), Some(*code));
            assert_eq!(code.header_value(), number.to_string());
        }
        assert_eq!(Code::ALL.len(), 17);
        assert_eq!(Code::from_number(17), None);
        assert_eq!(Code::from_number(u32::MAX), None);
    }

    #[test]
    fn every_code_but_ok_is_an_error_in_http() {
        for code in Code::ALL {
            assert_eq!(code.http_status().as_u16() < 400, *code == Code::Ok, "{code}");
        }
        assert_eq!(Code::Cancelled.http_status().as_u16(), 499);
    }
}
