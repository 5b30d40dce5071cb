//! Layers against each other, and every kind of wrong setting.

use std::net::SocketAddr;

use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    workers: u16,
    instance: String,
    state_dir: Option<PathBuf>,
    inbound: Vec<String>,
    credential: Credential,
    #[serde(with = "duration")]
    drain: std::time::Duration,
    outbound: Outbound,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Credential {
    Disk,
    Memory,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Outbound {
    listen: SocketAddr,
}

impl Default for Outbound {
    fn default() -> Self {
        Self { listen: "127.0.0.1:17001".parse().unwrap() }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            instance: "one".to_owned(),
            state_dir: None,
            inbound: Vec::new(),
            credential: Credential::Disk,
            drain: std::time::Duration::from_secs(10),
            outbound: Outbound::default(),
        }
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("proxy.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn fine(_settings: &Settings) -> Vec<Defect> {
    Vec::new()
}

#[test]
fn without_any_layer_the_defaults_hold() {
    assert_eq!(Layers::new().load(fine).unwrap(), Settings::default());
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_the_defaults() {
    let (_dir, path) =
        file("workers = 2\ninstance = 'file'\ndrain = '1m'\n[outbound]\nlisten = '127.0.0.1:1'\n");
    let settings = Layers::new()
        .file(&path, true)
        .environment(
            variables(&[
                ("OUTRIGGER_INSTANCE", "environment"),
                ("OUTRIGGER_OUTBOUND__LISTEN", "127.0.0.1:2"),
                ("OUTRIGGER_JOIN_TOKEN", "otr1.secret"),
                ("PATH", "/bin"),
            ]),
            &["OUTRIGGER_JOIN_TOKEN"],
        )
        .flag("outbound.listen", "--outbound", Some("127.0.0.1:3"))
        .flag::<&str>("state_dir", "--state-dir", None)
        .load(fine)
        .unwrap();
    assert_eq!(settings.workers, 2);
    assert_eq!(settings.instance, "environment");
    assert_eq!(settings.drain.as_secs(), 60);
    assert_eq!(settings.outbound.listen, "127.0.0.1:3".parse().unwrap());
    assert_eq!(settings.state_dir, None);
}

#[test]
fn a_variable_that_looks_like_a_number_fills_a_field_of_text() {
    let layers = Layers::new().environment(
        variables(&[
            ("OUTRIGGER_INSTANCE", "0042"),
            ("OUTRIGGER_STATE_DIR", "true"),
            ("OUTRIGGER_WORKERS", "3"),
            ("OUTRIGGER_INBOUND", "[a, b]"),
        ]),
        &[],
    );
    let settings: Settings = layers.load(fine).unwrap();
    assert_eq!(settings.instance, "0042");
    assert_eq!(settings.state_dir, Some(PathBuf::from("true")));
    assert_eq!(settings.workers, 3);
    assert_eq!(settings.inbound, ["a", "b"]);
}

#[test]
fn every_defect_is_reported_with_its_key_origin_and_remedy() {
    let (_dir, path) =
        file("wrokers = 2\ncredential = 'tape'\ninbound = [1]\n[outbound]\nlisten = 'here'\nport = 1\n");
    let error = Layers::new()
        .file(&path, true)
        .environment(variables(&[("OUTRIGGER_WORKERS", "many")]), &[])
        .flag("drain", "--drain", Some("soon"))
        .load(fine)
        .unwrap_err();
    let origin_of = |key: &str| {
        let mut found = error.0.iter().filter(|(defect, _)| defect.key == key);
        let (defect, origin) = found.next().unwrap_or_else(|| panic!("{key} is not in {error}"));
        assert!(found.next().is_none(), "{key} is twice in {error}");
        (defect.clone(), origin.clone())
    };
    let in_file = Origin::File(path.clone());
    let (defect, origin) = origin_of("wrokers");
    assert_eq!((defect.remedy.as_str(), origin), ("did you mean 'workers'?", in_file.clone()));
    let (defect, origin) = origin_of("credential");
    assert_eq!((defect.remedy.as_str(), origin), ("known: disk, memory", in_file.clone()));
    assert_eq!(origin_of("inbound").1, in_file);
    assert_eq!(origin_of("outbound.listen").1, in_file);
    assert_eq!(origin_of("outbound.port").1, in_file);
    assert_eq!(origin_of("workers").1, Origin::Environment("OUTRIGGER_WORKERS".to_owned()));
    let (defect, origin) = origin_of("drain");
    assert!(defect.problem.contains("10s"), "{defect:?}");
    assert_eq!(origin, Origin::Flag("--drain".to_owned()));
    assert_eq!(error.0.len(), 7, "{error}");
}

#[test]
fn a_list_in_place_of_a_section_is_refused_and_one_in_place_of_a_word_is_told_the_words() {
    let (_dir, path) = file("outbound = []\ncredential = []\n");
    let error = Layers::new()
        .file(&path, true)
        .environment(variables(&[("OUTRIGGER_OUTBOUND", "[a]")]), &[])
        .load(fine)
        .unwrap_err();
    let said = error.to_string();
    for part in [
        "outbound: found a list (environment OUTRIGGER_OUTBOUND); write a section [outbound]",
        "outbound: found a list (file ",
        "credential: found a list (file ",
        "; known: disk, memory",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(error.0.len(), 3, "{said}");
    let error = Layers::new().flag("credential", "--credential", Some("dsk")).load(fine).unwrap_err();
    assert!(error.to_string().ends_with("; did you mean 'disk'? known: disk, memory"), "{error}");
}

#[test]
fn a_check_finds_what_types_cannot_say_and_its_origin() {
    let error = Layers::new()
        .environment(variables(&[("OUTRIGGER_WORKERS", "0")]), &[])
        .load(|settings: &Settings| match settings.workers {
            0 => vec![Defect::new("workers", "there must be at least one", "write 1")],
            _ => Vec::new(),
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the settings are wrong:\n  workers: there must be at least one (environment OUTRIGGER_WORKERS); write 1"
    );
}

#[test]
fn a_file_that_is_missing_or_not_toml_is_reported_and_an_optional_one_may_be_missing() {
    let (_dir, path) = file("workers = = 2\n");
    let error = Layers::new().file(&path, true).load(fine).unwrap_err();
    assert!(error.to_string().contains("not TOML"), "{error}");
    let missing = path.with_file_name("missing.toml");
    assert!(Layers::new().file(&missing, false).load(fine).is_ok());
    let error = Layers::new().file(&missing, true).load(fine).unwrap_err();
    assert!(error.to_string().contains("missing.toml"), "{error}");
}
