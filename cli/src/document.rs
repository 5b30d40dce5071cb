//! Documents from files and standard input, each object with the place where it was written.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use outrigger_core::{
    model::{Object, ObjectRef},
    policy,
};

use crate::failure::{Defect, Failure};

/// Most that is read from one file, bytes.
const MAX_FILE: u64 = 4 << 20;

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file; `<stdin>` for standard input.
    pub(crate) source: String,
    /// The document in it, from 1.
    pub(crate) document: usize,
    /// The line in the file, from 1.
    pub(crate) line: u64,
    /// The column, from 1, when it is known.
    pub(crate) column: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)?;
        if let Some(column) = self.column {
            write!(f, ":{column}")?;
        }
        write!(f, ": document {}", self.document)
    }
}

/// An object, and where it was written.
#[derive(Debug)]
pub(crate) struct Sourced {
    /// What was written.
    pub(crate) object: Object,
    /// Where.
    pub(crate) place: Place,
}

impl Sourced {
    /// The object's reference.
    pub(crate) fn reference(&self) -> ObjectRef {
        self.object.reference()
    }
}

/// Reads all objects of `files`, in order; `-` is standard input.
///
/// # Errors
/// [`Failure::Refused`] with every defect of every file at once.
pub(crate) fn read(files: &[PathBuf]) -> Result<Vec<Sourced>, Failure> {
    let mut objects = Vec::new();
    let mut defects = Vec::new();
    for file in files {
        let (source, text) = load(file)?;
        match parse(&source, &text) {
            Ok(found) => objects.extend(found),
            Err(found) => defects.extend(found),
        }
    }
    if !defects.is_empty() {
        return Err(Failure::Refused {
            what: match defects.len() {
                1 => "the documents have a defect; nothing was sent".to_owned(),
                count => format!("the documents have {count} defects; nothing was sent"),
            },
            remedy: String::new(),
            defects,
        });
    }
    if objects.is_empty() {
        return Err(Failure::refused(
            "there is no document in what was given",
            "write at least one, with apiVersion, kind, metadata and spec",
        ));
    }
    Ok(objects)
}

/// Parses the documents of one text.
pub(crate) fn parse(source: &str, text: &str) -> Result<Vec<Sourced>, Vec<Defect>> {
    let place = |index: usize, line: u64, column: Option<u64>| Place {
        source: source.to_owned(),
        document: index + 1,
        line,
        column,
    };
    match policy::parse(text) {
        Ok(documents) => Ok(documents
            .into_iter()
            .map(|document| Sourced {
                place: place(document.index, document.line, None),
                object: document.object,
            })
            .collect()),
        Err(errors) => Err(errors
            .into_iter()
            .map(|error| {
                Defect::local(
                    place(error.index, error.line, Some(error.column)),
                    String::new(),
                    error.violation,
                )
            })
            .collect()),
    }
}

fn load(file: &Path) -> Result<(String, String), Failure> {
    let stdin = file.as_os_str() == "-";
    let source = if stdin { "<stdin>".to_owned() } else { file.display().to_string() };
    let mut text = String::new();
    let read = if stdin {
        io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|opened| opened.take(MAX_FILE + 1).read_to_string(&mut text))
    };
    match read {
        Err(error) => Err(Failure::io(format!("cannot read {source}"), error)),
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > MAX_FILE) => Err(Failure::refused(
            format!("{source} is larger than 4 MiB"),
            "split it: one call takes at most 64 objects",
        )),
        Ok(_) => Ok((source, text)),
    }
}
