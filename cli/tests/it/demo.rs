//! What the demo is built of: processes that end with their parent, and siblings of the same version.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
};

const OUTRIGGER: &str = env!("CARGO_BIN_EXE_outrigger");

/// A shell that starts a guarded `sleep` and waits for it; the pipe is open as long as any of them lives.
fn guarded() -> std::process::Child {
    Command::new("sh")
        .arg("-c")
        .arg("\"$0\" demo-app guard --parent $$ -- sh -c 'echo up; exec sleep 600' & wait")
        .arg(OUTRIGGER)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell")
}

#[test]
fn a_guarded_process_dies_with_its_parent() {
    let mut parent = guarded();
    let mut stdout = BufReader::new(parent.stdout.take().expect("piped"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("it starts");
    assert_eq!(line, "up\n");
    parent.kill().expect("killed");
    parent.wait().expect("gone");
    let mut rest = String::new();
    // Ends only when the guarded process is gone too: the pipe has no other writer.
    stdout.read_to_string(&mut rest).expect("the end");
    assert_eq!(rest, "");
}

#[test]
fn a_guard_whose_parent_is_gone_starts_nothing() {
    let ran = Command::new(OUTRIGGER)
        .args(["demo-app", "guard", "--parent", "1", "--", "echo", "started"])
        .output()
        .expect("it runs");
    assert_eq!(ran.status.code(), Some(1));
    assert!(ran.stdout.is_empty());
}

#[test]
fn an_application_of_the_demo_ends_with_its_standard_input() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut app = Command::new(OUTRIGGER)
        .args(["demo-app", "price", "--name", "price-v1-a", "--log"])
        .arg(directory.path().join("log"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    BufReader::new(app.stdout.take().expect("piped")).read_line(&mut line).expect("its address");
    assert!(line.starts_with("127.0.0.1:"), "{line}");
    drop(app.stdin.take());
    assert!(app.wait().expect("it ends").success());
}

#[test]
fn an_application_that_is_told_nonsense_says_so_and_ends() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut app = Command::new(OUTRIGGER)
        .args(["demo-app", "price", "--name", "price-v1-a", "--log"])
        .arg(directory.path().join("log"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = app.stdin.take().expect("piped");
    stdin.write_all(b"slow 20\nwell\nexplode\n").expect("told");
    let ended = app.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(2), "{text}");
    assert!(text.contains("not a fault: explode"), "{text}");
}

#[test]
fn the_demo_without_its_siblings_says_how_to_build_them() {
    // Links, not copies: a file that was open for writing while another test forked cannot be run.
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let alone = directory.path().join("outrigger");
    std::fs::hard_link(OUTRIGGER, &alone).expect("linked");
    let run = || {
        let ran = Command::new(&alone)
            .args(["demo", "--exit"])
            .env("PATH", directory.path())
            .env("TMPDIR", directory.path())
            .output()
            .expect("it runs");
        assert_eq!(ran.status.code(), Some(1));
        String::from_utf8_lossy(&ran.stderr).into_owned()
    };
    let text = run();
    assert!(text.contains("outrigger-control-plane") && text.contains("cargo build"), "{text}");

    // This command in a sibling's place: it runs, and names itself otherwise than it should.
    std::fs::hard_link(OUTRIGGER, directory.path().join("outrigger-control-plane")).expect("linked");
    let text = run();
    assert!(text.contains("outrigger-control-plane says \"outrigger "), "{text}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("listed").collect();
    assert_eq!(left.len(), 2, "the demo left nothing behind: {left:?}");
}
