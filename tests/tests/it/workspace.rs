//! The workspace's own rules: which crate may depend on which, what must not be built at all, how long a file may be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec![
            "--locked".to_owned(),
            "--offline".to_owned(),
            "--filter-platform".to_owned(),
            host(),
        ])
        .exec()
        .expect("cargo metadata")
}

fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn packages(metadata: &Metadata) -> HashMap<&PackageId, &Package> {
    metadata.packages.iter().map(|package| (&package.id, package)).collect()
}

/// Names of everything that `name` links when it is built on its own with the given kinds of dependency.
fn reach(metadata: &Metadata, name: &str, kinds: &[DependencyKind]) -> BTreeSet<String> {
    let by_id = packages(metadata);
    let nodes: HashMap<_, _> =
        metadata.resolve.as_ref().unwrap().nodes.iter().map(|node| (&node.id, node)).collect();
    let start = metadata.packages.iter().find(|package| package.name.as_str() == name).expect(name);
    let mut seen = BTreeSet::new();
    let mut open = vec![&start.id];
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let wanted = dependency.dep_kinds.iter().any(|kind| kinds.contains(&kind.kind));
            if wanted && seen.insert(by_id[&dependency.pkg].name.to_string()) {
                open.push(&dependency.pkg);
            }
        }
    }
    seen
}

/// What `cargo tree` says is built: unlike the metadata, it leaves out optional dependencies that no feature asks for.
fn tree(selection: &[&str], edges: &str) -> BTreeSet<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-e", edges, "--prefix", "none", "--format", "{p}"])
        .args(selection)
        .current_dir(root())
        .output()
        .expect("cargo tree");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

#[test]
fn core_is_pure() {
    let linked = tree(&["-p", "outrigger-core"], "normal");
    for forbidden in ["tokio", "mio", "socket2", "hyper", "rustls", "tonic", "tracing", "rand"] {
        assert!(
            !linked.contains(forbidden),
            "outrigger-core must not depend on {forbidden}: it decides, others do IO"
        );
    }
}

#[test]
fn each_crate_depends_only_on_those_before_it() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("outrigger-proto", &[][..]),
        ("outrigger-core", &["outrigger-proto"]),
        ("outrigger-tls", &["outrigger-proto", "outrigger-core"]),
        ("outrigger-process", &[]),
        ("outrigger-proxy", &["outrigger-proto", "outrigger-core", "outrigger-tls", "outrigger-process"]),
        (
            "outrigger-control-plane",
            &["outrigger-proto", "outrigger-core", "outrigger-tls", "outrigger-process"],
        ),
        ("outrigger", &["outrigger-proto", "outrigger-core", "outrigger-tls"]),
    ]);
    for (name, allowed) in allowed {
        let ours: BTreeSet<_> = reach(&metadata, name, &[DependencyKind::Normal, DependencyKind::Build])
            .into_iter()
            .filter(|dependency| dependency.starts_with("outrigger"))
            .collect();
        let allowed: BTreeSet<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let wrong: Vec<_> = ours.difference(&allowed).collect();
        assert!(wrong.is_empty(), "{name} must not depend on {wrong:?}");
    }
}

#[test]
fn the_tests_depend_on_no_plane() {
    let all = [DependencyKind::Normal, DependencyKind::Build, DependencyKind::Development];
    let metadata = metadata();
    let tests = metadata.packages.iter().find(|package| package.name.as_str() == "outrigger-tests").unwrap();
    for dependency in &tests.dependencies {
        assert!(all.contains(&dependency.kind));
        assert!(
            !["outrigger-proxy", "outrigger-control-plane"].contains(&dependency.name.as_str()),
            "whole-mesh tests drive the built binaries, not {}",
            dependency.name
        );
    }
}

#[test]
fn one_crypto_provider_and_no_sources_but_the_registry() {
    let built = tree(&["--workspace"], "normal,build,dev");
    for forbidden in ["ring", "openssl", "openssl-sys", "native-tls", "protoc-bin-vendored"] {
        assert!(!built.contains(forbidden), "{forbidden} must not be built");
    }
    for package in metadata().packages {
        let source = package.source.as_ref().map(|source| source.repr.as_str()).unwrap_or("path+");
        assert!(!source.starts_with("git+"), "{} comes from {source}", package.name);
    }
}

#[test]
fn one_version_of_what_two_versions_would_break() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata().packages {
        versions.entry(package.name.to_string()).or_default().insert(package.version.to_string());
    }
    for name in ["hyper", "rustls", "tonic", "prost", "http", "tokio", "h2"] {
        assert_eq!(versions[name].len(), 1, "{name}: {:?}", versions[name]);
    }
}

/// The lints that keep what a peer can cause from being a crash hold everywhere.
#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let metadata = metadata();
    assert!(metadata.workspace_packages().len() > 8);
    for package in metadata.workspace_packages() {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true\n"), "{}", package.manifest_path);
    }
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Lines before the tests inside a file.
fn lines_of_code(text: &str) -> usize {
    text.lines()
        .take_while(|line| !line.starts_with("#[cfg(test)]\nmod tests {") && *line != "mod tests {")
        .count()
}

#[test]
fn every_file_says_what_it_is_for_and_can_be_read_in_one_sitting() {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    let mut wrong = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        if !text.starts_with("//!") {
            wrong.push(format!("{}: no module documentation", path.display()));
        }
        let is_test = path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
        let lines = lines_of_code(&text);
        if !is_test && lines > 500 {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The pages' own tests see what has a sample; this sees what the sources register.
#[test]
fn every_metric_is_in_the_reference() {
    let page = fs::read_to_string(root().join("docs/reference/metrics.md")).unwrap();
    let mut missing = Vec::new();
    for plane in ["proxy/process/src", "proxy/sidecar/src", "control-plane/src"] {
        let mut found = Vec::new();
        sources(&root().join(plane), &mut found);
        found.retain(|path| !path.ends_with("tests.rs"));
        for path in found {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let registered = ["registry.register(", "registry.register_with_unit("]
                .into_iter()
                .flat_map(|call| text.split(call).skip(1))
                .filter_map(|after| after.trim_start().strip_prefix('"')?.split('"').next());
            // Collectors name theirs wherever they like; two of these are targets of the log.
            let encoded = text.split("\"outrigger_").skip(1).filter_map(|rest| rest.split('"').next());
            let encoded = encoded.filter(|name| !["fatal", "panic"].contains(name));
            let mut names: Vec<&str> =
                registered.map(|name| name.trim_start_matches("outrigger_")).chain(encoded).collect();
            names.retain(|name| {
                let exposed = |end| page.contains(&format!("`outrigger_{name}{end}"));
                !exposed("_") && !exposed("`")
            });
            missing.extend(names.iter().map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert!(missing.is_empty(), "not in docs/reference/metrics.md: {missing:#?}");
}

#[test]
fn core_reads_no_clock() {
    let mut found = Vec::new();
    sources(&root().join("proxy/core/src"), &mut found);
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        for call in ["Instant::now", "SystemTime::now", "thread::spawn", "std::net::TcpStream", "std::fs"] {
            let production = text.split("#[cfg(test)]").next().unwrap_or_default();
            let is_test =
                path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
            assert!(is_test || !production.contains(call), "{}: {call}", path.display());
        }
    }
}
