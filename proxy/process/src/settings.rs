//! A process's own settings, in layers: defaults, then a TOML file, then the environment (`OUTRIGGER_A__B` is `a.b`),
//! then flags. Every defect is found in one go, with its key, where it came from and what to write instead.
//!
//! The type that is loaded denies unknown fields (`#[serde(default, deny_unknown_fields)]` on every struct) and holds
//! no secret: its values are shown in errors. Secrets come from files that settings name.

pub mod address;
pub mod duration;
mod wording;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use figment::{
    Error as Found, Figment, Metadata, Profile, Provider,
    error::Kind,
    providers::{Format as _, Serialized, Toml},
    value::{Dict, Map, Value},
};
use serde::{Serialize, de::DeserializeOwned};

/// What every variable of ours starts with.
const PREFIX: &str = "OUTRIGGER_";
/// After so many defects the rest is not looked for.
const MAX_DEFECTS: usize = 32;
/// No settings file is larger.
const MAX_FILE: u64 = 1024 * 1024;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The file at this path.
    File(PathBuf),
    /// The variable of this name.
    Environment(String),
    /// The flag of this name.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// Which: `outbound.listen`; empty for a whole file.
    pub key: String,
    /// What is wrong, without a full stop.
    pub problem: String,
    /// What to write instead; may be empty.
    pub remedy: String,
}

impl Defect {
    /// A defect of `key`.
    pub fn new(key: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<(Defect, Origin)>);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are wrong:")?;
        for (defect, origin) in &self.0 {
            f.write_str("\n  ")?;
            if !defect.key.is_empty() {
                write!(f, "{}: ", defect.key)?;
            }
            write!(f, "{} ({origin})", defect.problem)?;
            if !defect.remedy.is_empty() {
                write!(f, "; {}", defect.remedy)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// The variables of this process, for [`Layers::environment`]. What is not UTF-8 comes with replacement characters, and
/// is then refused as the value it has become.
pub fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
            (text(name), text(value))
        })
        .collect()
}

/// The layers over the defaults, weakest first.
#[derive(Debug, Default)]
pub struct Layers {
    layers: Vec<Layer>,
    defects: Vec<(Defect, Origin)>,
}

#[derive(Debug)]
struct Layer {
    origin: Origin,
    values: Dict,
    /// What the environment says before a type was guessed.
    raw: BTreeMap<Vec<String>, String>,
}

impl Layers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The file at `path`. It must be there if it was asked for (`required`). Blocks.
    #[must_use]
    pub fn file(mut self, path: &Path, required: bool) -> Self {
        let origin = Origin::File(path.to_owned());
        let problem = match read(path) {
            Ok(text) => match Toml::from_str::<Dict>(&text) {
                Ok(values) => {
                    self.layers.push(Layer { origin, values, raw: BTreeMap::new() });
                    return self;
                }
                Err(error) => format!("this is not TOML: {}", error.to_string().trim_end()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return self,
            Err(error) => format!("the file cannot be read: {error}"),
        };
        self.defects.push((Defect::new("", problem, ""), origin));
        self
    }

    /// Those of `variables` whose names start with `OUTRIGGER_`, but for the ones named in `except`, which are not
    /// settings. `__` separates the levels of a key; lists are written `[a, b]`.
    #[must_use]
    pub fn environment(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
        except: &[&str],
    ) -> Self {
        // In the order of names, so that the same variables always mean the same.
        let variables: BTreeMap<_, _> = variables.into_iter().collect();
        for (variable, value) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            if except.contains(&variable.as_str()) {
                continue;
            }
            let path: Vec<_> = name.to_lowercase().split("__").map(str::to_owned).collect();
            // Never fails: what is nothing else is a string.
            let parsed = value.parse::<Value>().unwrap_or_else(|_| Value::from(value.as_str()));
            let mut values = Dict::new();
            insert(&mut values, &path, parsed);
            self.layers.push(Layer {
                origin: Origin::Environment(variable),
                values,
                raw: BTreeMap::from([(path, value)]),
            });
        }
        self
    }

    /// The value of `flag` for `key`, if it was given.
    #[must_use]
    pub fn flag<V: Serialize>(mut self, key: &str, flag: &str, value: Option<V>) -> Self {
        let Some(value) = value else {
            return self;
        };
        let origin = Origin::Flag(flag.to_owned());
        match Value::serialize(value) {
            Ok(value) => {
                let path: Vec<_> = key.split('.').map(str::to_owned).collect();
                let mut values = Dict::new();
                insert(&mut values, &path, value);
                self.layers.push(Layer { origin, values, raw: BTreeMap::new() });
            }
            Err(error) => {
                let defect = Defect::new(key, error.kind.to_string(), "");
                self.defects.push((defect, origin));
            }
        }
        self
    }

    /// Reads the settings, then has `check` look at what types cannot say (ranges, what goes with what).
    ///
    /// # Errors
    /// With everything that is wrong, up to 32 defects.
    pub fn load<T>(mut self, check: impl FnOnce(&T) -> Vec<Defect>) -> Result<T, SettingsError>
    where
        T: Serialize + DeserializeOwned + Default,
    {
        self.sections(&T::default());
        let settings = loop {
            match self.merged::<T>() {
                Ok(settings) => break settings,
                Err(found) if self.repair(&found) && self.defects.len() < MAX_DEFECTS => {}
                Err(_) => return Err(SettingsError(self.defects)),
            }
        };
        // A value that was taken out because it is wrong must not be reported again as the default that replaced it.
        let checked: Vec<_> = check(&settings)
            .into_iter()
            .filter(|defect| self.defects.iter().all(|(known, _)| known.key != defect.key))
            .collect();
        for defect in checked {
            let origin = self.origin(&defect.key);
            self.defects.push((defect, origin));
        }
        if self.defects.is_empty() { Ok(settings) } else { Err(SettingsError(self.defects)) }
    }

    /// Takes out the lists that stand where `defaults` have a section.
    fn sections(&mut self, defaults: &impl Serialize) {
        // What is no section has no other place to be one: the types say the rest.
        let Ok(Value::Dict(_, defaults)) = Value::serialize(defaults) else { return };
        let mut paths = Vec::new();
        sections(&defaults, &mut Vec::new(), &mut paths);
        for path in paths {
            for layer in &mut self.layers {
                if let Some(Value::Array(..)) = find(&layer.values, &path)
                    && self.defects.len() < MAX_DEFECTS
                {
                    remove(&mut layer.values, &path);
                    self.defects.push((wording::no_section(&path), layer.origin.clone()));
                }
            }
        }
    }

    fn merged<T: Serialize + DeserializeOwned + Default>(&self) -> Result<T, Box<Found>> {
        let defaults = Figment::from(Serialized::defaults(T::default()));
        let all = self.layers.iter().fold(defaults, |all, layer| all.merge(layer));
        all.extract().map_err(Box::new)
    }

    fn origin(&self, key: &str) -> Origin {
        let path: Vec<_> = key.split('.').map(str::to_owned).collect();
        let holds = |layer: &&Layer| find(&layer.values, &path).is_some();
        self.layers.iter().rev().find(holds).map_or(Origin::Default, |layer| layer.origin.clone())
    }

    /// Takes the value that `found` speaks of out of the strongest layer that has it, so that the next attempt finds
    /// the next defect, and notes it; `false` if nothing could be changed.
    fn repair(&mut self, found: &Found) -> bool {
        let mut path = found.path.clone();
        if let Kind::UnknownField(field, _) = &found.kind
            && path.last() != Some(field)
        {
            path.push(field.clone());
        }
        // An error inside a list, or a struct read from a string, is the list's or the string's.
        while !path.is_empty() {
            let holder = self.layers.iter_mut().rev().find(|layer| find(&layer.values, &path).is_some());
            let Some(layer) = holder else {
                path.pop();
                continue;
            };
            // `OUTRIGGER_INSTANCE=7` was taken for a number; a field of text wants it as it was written.
            if let Some(raw) = layer.raw.get(&path)
                && !matches!(find(&layer.values, &path), Some(Value::String(..)))
            {
                let text = Value::from(raw.as_str());
                insert(&mut layer.values, &path, text);
                return true;
            }
            if wording::is_of_choice(found)
                && let Some(text) = find(&layer.values, &path).and_then(wording::bare)
            {
                insert(&mut layer.values, &path, Value::from(text));
                return true;
            }
            let value = remove(&mut layer.values, &path);
            let origin = layer.origin.clone();
            self.defects.push((wording::describe(&path, found, value.as_ref()), origin));
            return true;
        }
        let defect = wording::describe(&found.path, found, None);
        self.defects.push((defect, Origin::Default));
        false
    }
}

impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Found> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    fs::read_to_string(path)
}

fn find<'a>(values: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = values.get(first)?;
    match (rest, value) {
        ([], value) => Some(value),
        (rest, Value::Dict(_, inner)) => find(inner, rest),
        _ => None,
    }
}

/// The keys of `values` that hold more of them.
fn sections(values: &Dict, above: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    for (key, value) in values {
        if let Value::Dict(_, inner) = value {
            above.push(key.clone());
            found.push(above.clone());
            sections(inner, above, found);
            above.pop();
        }
    }
}

fn insert(values: &mut Dict, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            values.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let entry = values.entry(first.clone()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = entry {
                insert(inner, rest, value);
            }
        }
    }
}

fn remove(values: &mut Dict, path: &[String]) -> Option<Value> {
    match path {
        [] => None,
        [last] => values.remove(last),
        [first, rest @ ..] => match values.get_mut(first) {
            Some(Value::Dict(_, inner)) => remove(inner, rest),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests;
