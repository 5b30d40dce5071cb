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
    for port in [&settings.policy, &settings.discovery, &settings.health] {
        assert!(port.listen.ip().is_loopback());
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
fn every_wrong_setting_is_named_with_its_origin_and_remedy() {
    let environment = [
        ("OUTRIGGER_AUTHORITY__LEAF_TTL", "9s"),
        ("OUTRIGGER_DRAIN__TIMEOUT", "1h"),
        ("OUTRIGGER_HISTORY__REVISIONS", "0"),
        ("OUTRIGGER_HEALTH__LISTEN", "127.0.0.1:17100"),
        ("OUTRIGGER_POLICY__PORT", "1"),
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
    ] {
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

#[test]
fn the_help_names_what_the_first_start_makes() {
    Flags::command().debug_assert();
    let help = Flags::command().render_long_help().to_string();
    for part in ["store.redb", "authority/", "admin/", "addresses.json", "OUTRIGGER_DISCOVERY__LISTEN"] {
        assert!(help.contains(part), "{part} is not in {help}");
    }
}
