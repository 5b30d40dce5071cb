//! The settings' layers and defects.

use clap::{CommandFactory, Parser};

use super::{Flags, Settings};

fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, String> {
    let flags = Flags::parse_from([&["outrigger-control-plane"], arguments].concat());
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    flags.load(environment).map_err(|error| error.to_string())
}

#[test]
fn no_flag_is_needed_and_everything_is_on_loopback() {
    let settings =
        load(&[], &[("PATH", "/bin"), ("OUTRIGGER_SERVER", "other"), ("OUTRIGGER_CREDENTIAL", "x")]);
    let settings = settings.unwrap();
    assert_eq!(settings, Settings::default());
    for listen in [settings.policy.listen, settings.discovery.listen, settings.health.listen] {
        assert!(listen.ip().is_loopback());
    }
    assert!(!settings.registry.allow_loopback);
}

#[test]
fn flags_win_over_the_environment() {
    let environment = [
        ("OUTRIGGER_POLICY__LISTEN", "127.0.0.1:1"),
        ("OUTRIGGER_DISCOVERY__LISTEN", "127.0.0.1:2"),
        ("OUTRIGGER_REGISTRY__ALLOW_LOOPBACK", "true"),
        ("OUTRIGGER_LOG__FORMAT", "text"),
    ];
    let settings = load(&["--policy-listen", "127.0.0.1:0"], &environment).unwrap();
    assert_eq!(settings.policy.listen.port(), 0);
    assert_eq!(settings.discovery.listen.port(), 2);
    assert!(settings.registry.allow_loopback);
}

#[test]
fn names_are_a_list_in_the_file_and_one_text_elsewhere() {
    let wanted = Some(vec!["mesh.example.com".to_owned(), "192.0.2.7".to_owned()]);
    let flag = ["--policy-names", "mesh.example.com,192.0.2.7"];
    assert_eq!(load(&flag, &[]).unwrap().policy.names, wanted);
    assert_eq!(
        load(&["--policy-names", "mesh.example.com", "--policy-names", "192.0.2.7"], &[])
            .unwrap()
            .policy
            .names,
        wanted
    );
    for text in ["mesh.example.com, 192.0.2.7", "[mesh.example.com, 192.0.2.7]"] {
        let settings = load(&[], &[("OUTRIGGER_POLICY__NAMES", text)]).unwrap();
        assert_eq!(settings.policy.names, wanted, "{text}");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.toml");
    std::fs::write(&path, "[policy]\nnames = ['mesh.example.com', '192.0.2.7']\n").unwrap();
    let settings = load(&["--settings", path.to_str().unwrap()], &[]).unwrap();
    assert_eq!(settings.policy.names, wanted);
}

#[test]
fn a_name_that_nobody_can_dial_is_refused_with_the_remedy() {
    for (names, problem) in [
        (
            "mesh.example.com,*.example.com",
            "policy.names: '*.example.com' is neither a DNS name nor an IP address",
        ),
        ("mesh.example.com:17100", "policy.names: 'mesh.example.com:17100' is neither"),
        ("0.0.0.0", "policy.names: 0.0.0.0 stands for every address"),
    ] {
        let error = load(&["--policy-names", names], &[]).unwrap_err();
        assert!(error.contains(problem), "{error}");
        assert!(error.contains("(flag --policy-names); write what clients dial"), "{error}");
    }
    let error = load(&[], &[("OUTRIGGER_POLICY__NAMES", "[]")]).unwrap_err();
    assert!(error.contains("policy.names: the list is empty"), "{error}");
    let error = load(&[], &[("OUTRIGGER_POLICY__NAMES", "7")]).unwrap_err();
    assert!(error.contains("policy.names: '7' is neither"), "{error}");
    let many = vec!["a.example"; 65].join(",");
    let error = load(&["--policy-names", &many], &[]).unwrap_err();
    assert!(error.contains("policy.names: 65 names are too many"), "{error}");
}

#[test]
fn every_wrong_setting_is_named_with_its_origin_and_remedy() {
    let environment = [
        ("OUTRIGGER_AUTHORITY__LEAF_TTL", "9s"),
        ("OUTRIGGER_DRAIN__TIMEOUT", "1h"),
        ("OUTRIGGER_HISTORY__REVISIONS", "0"),
        ("OUTRIGGER_HEALTH__LISTEN", "127.0.0.1:17100"),
        ("OUTRIGGER_POLICY__PORT", "1"),
        ("OUTRIGGER_LOG__LEVEL", "loud"),
    ];
    let error = load(&["--trust-domain", "Mesh"], &environment).unwrap_err();
    for part in [
        "trust_domain: 'Mesh' is not a trust domain",
        "(flag --trust-domain); write a name such as mesh.example.com",
        "authority.leaf_ttl: it is out of range (environment OUTRIGGER_AUTHORITY__LEAF_TTL)",
        "drain.timeout: it is longer than 10m (environment OUTRIGGER_DRAIN__TIMEOUT)",
        "history.revisions: it is 0 (environment OUTRIGGER_HISTORY__REVISIONS); write 1 to 1000000",
        "health.listen: 127.0.0.1:17100 is the address of policy.listen too",
        "policy.port: there is no such setting",
        "log.level: 'loud' is not a level (environment OUTRIGGER_LOG__LEVEL); write error, warn, info",
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[test]
fn a_list_is_no_section() {
    for section in ["policy", "discovery", "health", "authority", "registry", "history", "drain", "log"] {
        let variable = format!("OUTRIGGER_{}", section.to_uppercase());
        let error = load(&[], &[(&variable, "[]")]).unwrap_err();
        let said = format!("{section}: found a list (environment {variable}); write a section [{section}]");
        assert!(error.contains(&said), "{said} is not in {error}");
    }
    let error = load(&[], &[("OUTRIGGER_LOG__FORMAT", "[]")]).unwrap_err();
    assert!(error.contains("log.format: "), "{error}");
    assert!(error.contains("; known: json, text"), "{error}");
}

#[test]
fn the_help_names_what_the_first_start_makes() {
    Flags::command().debug_assert();
    let help = Flags::command().render_long_help().to_string();
    for part in ["store.redb", "authority/", "admin/", "addresses.json", "OUTRIGGER_DISCOVERY__LISTEN"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
}
