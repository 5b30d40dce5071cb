//! Where a join token comes from: a file, standard input or the environment; never the arguments.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use outrigger_core::join_token::{InvalidJoinToken, JoinToken};

/// No token is longer; a file that is, is another file.
const MAX_BYTES: u64 = 1024;

/// Why there is no token although one was given.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file system says no.
    #[error("join.token_file: {} cannot be read", path.display())]
    File {
        /// Which; `-` is standard input.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none.
    #[error("{origin} holds no join token")]
    Invalid {
        /// Where it was looked for.
        origin: String,
        /// Why.
        source: InvalidJoinToken,
    },
}

/// Reads the token in `file` (`-`: standard input), else in `variable`, the environment's. Blocks.
///
/// # Errors
/// If it cannot be read, or is none. The error does not show it.
pub fn read(file: Option<&Path>, variable: Option<&str>) -> Result<Option<JoinToken>, TokenError> {
    let (text, origin) = match (file, variable) {
        (Some(path), _) => {
            let failed = |source| TokenError::File { path: path.to_owned(), source };
            let text = if path.as_os_str() == "-" {
                take(io::stdin().lock())
            } else {
                File::open(path).and_then(take)
            };
            (text.map_err(failed)?, path.display().to_string())
        }
        (None, Some(text)) => (text.to_owned(), crate::settings::JOIN_TOKEN_VARIABLE.to_owned()),
        (None, None) => return Ok(None),
    };
    text.parse().map(Some).map_err(|source| TokenError::Invalid { origin, source })
}

fn take(source: impl Read) -> io::Result<String> {
    let mut text = String::new();
    source.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use outrigger_core::join_token::{TokenId, TokenSecret};

    use super::*;

    #[test]
    fn a_file_goes_before_the_environment() {
        let token = |id| JoinToken {
            id: TokenId([id; 8]),
            secret: TokenSecret::new([2; 32]),
            root_spki_sha256: [3; 32],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, format!("{}\n", token(1).reveal())).unwrap();
        let variable = token(2).reveal();
        assert_eq!(read(Some(&path), Some(&variable)).unwrap(), Some(token(1)));
        assert_eq!(read(None, Some(&variable)).unwrap(), Some(token(2)));
        assert_eq!(read(None, None).unwrap(), None);
    }

    #[test]
    fn an_error_names_the_place_and_not_the_text() {
        let error = read(None, Some("otr1.secret")).unwrap_err();
        assert_eq!(error.to_string(), "OUTRIGGER_JOIN_TOKEN holds no join token");
        let path = Path::new("/nonexistent/token");
        assert!(
            read(Some(path), None).unwrap_err().to_string().contains("/nonexistent/token cannot be read")
        );
    }
}
