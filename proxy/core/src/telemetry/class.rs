//! Kinds of exchanges. Their totals end at different moments, so that figures of two kinds are never added.

use std::fmt;

use outrigger_proto::telemetry::v1alpha1 as proto;

use crate::model::Violation;

/// What an edge counts, and so where a total ends (the caller stamps [`Stamps::end`](super::hop::Stamps::end)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// From the head to the last byte of the response that the downstream accepted.
    #[default]
    Request,
    /// gRPC streams and server-sent events: to the response's head. How long they stay open says nothing of a delay.
    Stream,
    /// WebSocket and other upgrades: to the response's head.
    Upgrade,
    /// Opaque TCP: to the established upstream connection.
    Tcp,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Request, Self::Stream, Self::Upgrade, Self::Tcp];

    /// As in metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Stream => "stream",
            Self::Upgrade => "upgrade",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Class> for proto::Class {
    fn from(class: Class) -> Self {
        match class {
            Class::Request => Self::Request,
            Class::Stream => Self::Stream,
            Class::Upgrade => Self::Upgrade,
            Class::Tcp => Self::Tcp,
        }
    }
}

impl Class {
    /// Reads the enum's number. 0 is a request, since proxies that know no classes count nothing else.
    ///
    /// # Errors
    /// This version does not know the class; its figures must not be taken for those of another one.
    pub fn from_wire(class: i32) -> Result<Self, Violation> {
        match proto::Class::try_from(class) {
            Ok(proto::Class::Unspecified | proto::Class::Request) => Ok(Self::Request),
            Ok(proto::Class::Stream) => Ok(Self::Stream),
            Ok(proto::Class::Upgrade) => Ok(Self::Upgrade),
            Ok(proto::Class::Tcp) => Ok(Self::Tcp),
            Err(_unknown) => {
                Err(Violation::error("class", "unsupported", format!("{class} is no class of this version")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_survives_a_round_trip_and_is_named_as_on_the_wire() {
        for class in Class::ALL {
            let wire = proto::Class::from(class);
            assert_eq!(Class::from_wire(wire.into()), Ok(class));
            assert_eq!(wire.as_str_name(), format!("CLASS_{}", class.as_str().to_uppercase()));
        }
        assert_eq!(Class::from_wire(0), Ok(Class::Request));
        assert_eq!(Class::from_wire(5).unwrap_err().field, "class");
    }
}
