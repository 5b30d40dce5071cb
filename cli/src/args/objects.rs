//! The commands on objects, and what the writing ones share.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{
    Args, ValueEnum as _,
    builder::{EnumValueParser, PossibleValue, TypedValueParser},
};

use super::KindArg;
use crate::{duration, failure::Failure};

/// A kind, or `KIND/NAME`, as users of kubectl write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) kind: KindArg,
    /// `NAME` or `NAMESPACE/NAME`.
    name: Option<String>,
}

impl Named {
    /// The one name that was given, here or apart.
    ///
    /// # Errors
    /// There are two.
    pub(crate) fn one(&self, apart: Option<&String>) -> Result<Option<String>, Failure> {
        match (&self.name, apart) {
            (Some(own), Some(other)) => Err(Failure::Usage(format!(
                "there are two names, '{own}' and '{other}': write KIND/NAME or KIND NAME"
            ))),
            (own, apart) => Ok(own.as_ref().or(apart).cloned()),
        }
    }

    /// All names that were given; behind KIND/NAME, the others are of that form, too.
    ///
    /// # Errors
    /// There is none, or one of another form.
    pub(crate) fn all(&self, apart: &[String]) -> Result<Vec<(KindArg, String)>, Failure> {
        let Some(own) = &self.name else {
            if apart.is_empty() {
                let what = "there is no name: write KIND/NAME, such as route/demo/price, or KIND NAME";
                return Err(Failure::Usage(what.to_owned()));
            }
            return Ok(apart.iter().map(|name| (self.kind, name.clone())).collect());
        };
        let mut all = vec![(self.kind, own.clone())];
        for text in apart {
            let named = text.split_once('/').and_then(|(kind, name)| {
                let kind = KindArg::from_str(kind, true).ok()?;
                Some((kind, name.to_owned()))
            });
            all.push(named.ok_or_else(|| {
                Failure::Usage(format!("'{text}' is not KIND/NAME, as the one before it is"))
            })?);
        }
        Ok(all)
    }
}

/// Reads a [`Named`]; the kinds are shown and completed as those of any other list.
#[derive(Debug, Clone, Copy)]
struct NamedParser;

impl TypedValueParser for NamedParser {
    type Value = Named;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<Named, clap::Error> {
        let (kind, name) = match value.to_str().and_then(|text| text.split_once('/')) {
            Some((kind, name)) => (OsStr::new(kind), Some(name.to_owned())),
            None => (value, None),
        };
        let kind = EnumValueParser::<KindArg>::new().parse_ref(command, argument, kind)?;
        Ok(Named { kind, name })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(KindArg::value_variants().iter().filter_map(KindArg::to_possible_value)))
    }
}

/// For other commands that name one object.
pub(super) fn named() -> impl TypedValueParser<Value = Named> {
    NamedParser
}

/// `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File of documents, or - for standard input; may be repeated
    #[arg(short, long, required = true, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) set: SetArgs,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

/// The set of objects that belong together.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SetArgs {
    /// Name of the set that these objects belong to from now on; objects of another set are refused
    #[arg(long, value_name = "NAME")]
    pub(crate) set: Option<String>,
    /// Delete what belongs to the set and is not in these files, in the namespaces that they have objects of: they must be
    /// all of it, at most 64 objects
    #[arg(long, requires = "set")]
    pub(crate) prune: bool,
}

/// What the writing commands share.
#[derive(Debug, Clone, Args)]
pub(crate) struct WriteArgs {
    /// Return only when every proxy concerned has applied the change; 4 if one has not
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse, requires = "wait")]
    pub(crate) timeout: Duration,
    /// Check everything, store nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Why, for the history and the audit record
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) message: String,
}

/// `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Kind of object, or KIND/NAME
    #[arg(value_parser = NamedParser, ignore_case = true)]
    pub(crate) kind: Named,
    /// Name, or NAMESPACE/NAME; without it, all of the kind
    pub(crate) name: Option<String>,
    /// Namespace [default: every one for a list, `default` for a name]
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Show what there is, and then every change, until Ctrl-C
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Kind of object, or KIND/NAME
    #[arg(value_parser = NamedParser, ignore_case = true, required_unless_present = "file")]
    pub(crate) kind: Option<Named>,
    /// Names, or NAMESPACE/NAME
    pub(crate) name: Vec<String>,
    /// Delete what these documents name instead; - for standard input; may be repeated
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["kind", "name", "namespace"])]
    pub(crate) file: Vec<PathBuf>,
    /// Namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespace: String,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Arguments, Command};

    /// What `delete` is asked to delete.
    fn deleted(rest: &[&str]) -> Result<Vec<String>, String> {
        let arguments = Arguments::try_parse_from([&["outrigger", "delete"], rest].concat());
        let Ok(Command::Delete(args)) = arguments.map(|arguments| arguments.command) else {
            return Err("not understood".to_owned());
        };
        let kind = args.kind.ok_or("no kind")?;
        let all = kind.all(&args.name).map_err(|failure| failure.to_string())?;
        Ok(all.into_iter().map(|(kind, name)| format!("{kind:?} {name}")).collect())
    }

    /// What `get` is asked for.
    fn got(rest: &[&str]) -> Result<(String, Option<String>), String> {
        let arguments = Arguments::try_parse_from([&["outrigger", "get"], rest].concat());
        let Ok(Command::Get(args)) = arguments.map(|arguments| arguments.command) else {
            return Err("not understood".to_owned());
        };
        let name = args.kind.one(args.name.as_ref()).map_err(|failure| failure.to_string())?;
        Ok((format!("{:?}", args.kind.kind), name))
    }

    #[test]
    fn objects_are_named_as_kubectl_does_it_or_in_two_words() {
        let texts = |texts: &[&str]| Ok(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(deleted(&["route", "price", "shop/cart"]), texts(&["Route price", "Route shop/cart"]));
        assert_eq!(deleted(&["Routes/price"]), texts(&["Route price"]));
        assert_eq!(
            deleted(&["route/demo/price", "svc/demo/price"]),
            texts(&["Route demo/price", "Service demo/price"])
        );
        let one = |kind: &str, name: Option<&str>| Ok((kind.to_owned(), name.map(str::to_owned)));
        assert_eq!(got(&["svc"]), one("Service", None));
        assert_eq!(got(&["svc", "price"]), one("Service", Some("price")));
        assert_eq!(got(&["svc/demo/price"]), one("Service", Some("demo/price")));
    }

    #[test]
    fn another_form_is_told_the_right_one() {
        for (rest, said) in [
            (&["route"][..], "write KIND/NAME, such as route/demo/price, or KIND NAME"),
            (&["route/price", "cart"], "'cart' is not KIND/NAME, as the one before it is"),
            (&["route/price", "shop/cart"], "'shop/cart' is not KIND/NAME"),
        ] {
            let error = deleted(rest).unwrap_err();
            assert!(error.contains(said), "{rest:?}: {error}");
        }
        let error = got(&["svc/price", "cart"]).unwrap_err();
        assert!(error.contains("there are two names, 'price' and 'cart'"), "{error}");
        let error = Arguments::try_parse_from(["outrigger", "get", "gateway/price"]).unwrap_err().to_string();
        assert!(error.contains("possible values: service, route, trafficpolicy, meshconfig"), "{error}");
    }
}
