//! The configuration commands. Invalid files are tested in `src/config/tests.rs`.

use std::fs;

use insta::assert_snapshot;

use crate::support::cli::{home, run_in};

#[test]
fn config_show_prints_every_value_and_its_source() {
    let home = home();
    let file = home.path().join("config.toml");
    fs::write(&file, "[sweep]\nunknown_grace = \"7m\"\n[runtimes.agent]\nimage = \"agent:1\"\nenv = { KEY = \"hunter2\" }\n").unwrap();
    let file = file.to_str().unwrap();
    let env = [("OSTLER_NETWORK_PORT", "8800"), ("OSTLER_RUNTIME_DIR", "/run/test")];
    let ran = run_in(&home, &["config", "show", "--config", file], &env, "");
    assert_snapshot!("config_show", ran.transcript());
    let ran =
        run_in(&home, &["config", "show", "--config", file, "--data-dir", "/srv/ostler", "--json"], &env, "");
    assert_snapshot!("config_show_json", ran.transcript());
}

#[test]
fn config_init_writes_valid_file_and_never_overwrites() {
    let home = home();
    let ran = run_in(&home, &["config", "init"], &[], "");
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "wrote [HOME]/.config/ostler/config.toml\n"),
        "{}",
        ran.stderr
    );
    let ran = run_in(&home, &["config", "check"], &[], "");
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "ok, file: [HOME]/.config/ostler/config.toml\n"),
        "{}",
        ran.stderr
    );

    let file = home.path().join(".config/ostler/config.toml");
    fs::write(&file, "# mine\n").unwrap();
    assert_snapshot!("config_init_again", run_in(&home, &["config", "init"], &[], "").transcript());
    assert_eq!(fs::read_to_string(&file).unwrap(), "# mine\n");
}

#[test]
fn config_init_writes_to_path_from_ostler_config_variable() {
    let home = home();
    let file = home.path().join("new/place.toml");
    let ran = run_in(&home, &["config", "init", "--json"], &[("OSTLER_CONFIG", file.to_str().unwrap())], "");
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "{\n  \"file\": \"[HOME]/new/place.toml\"\n}\n"),
        "{}",
        ran.stderr
    );
}

#[test]
fn invalid_config_file_fails_check_and_ls_but_not_completions() {
    let home = home();
    let file = home.path().join("bad.toml");
    fs::write(&file, "[sweep]\nunkown_grace = \"7m\"\nabsence_grace = 7\n").unwrap();
    let file = file.to_str().unwrap();
    assert_snapshot!(
        "config_bad",
        run_in(&home, &["config", "check", "--config", file], &[], "").transcript()
    );
    assert_eq!(run_in(&home, &["ls", "--config", file], &[], "").code, 2);
    assert_eq!(run_in(&home, &["completions", "bash", "--config", file], &[], "").code, 0);
}

#[test]
fn config_check_fails_when_given_file_does_not_exist() {
    let home = home();
    let ran = run_in(&home, &["config", "check", "--config", "/no/such.toml"], &[], "");
    assert_eq!(ran.code, 2);
    assert_eq!(
        ran.stderr,
        "error: cannot read the configuration file /no/such.toml\n  caused by: No such file or directory (os error 2)\n"
    );
}

#[test]
fn invalid_variable_is_an_error_and_unknown_variable_a_warning() {
    let home = home();
    let ran = run_in(&home, &["config", "check"], &[("OSTLER_SWEEP_UNKNOWN_GRACE", "10")], "");
    assert_snapshot!("config_bad_variable", ran.transcript());
    let ran = run_in(&home, &["config", "check"], &[("OSTLER_SWEEP_UNKOWN_GRACE", "10m")], "");
    assert_snapshot!("config_unknown_variable", ran.transcript());
}

#[test]
fn data_dir_too_long_for_socket_path_is_rejected() {
    let home = home();
    let long = format!("/tmp/{}", "d".repeat(95));
    let ran = run_in(&home, &["ls", "--data-dir", &long], &[], "");
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.starts_with("error: --data-dir: `data_dir` is too long: the socket's path /tmp/ddd"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .ends_with("has 112 bytes, but the kernel allows at most 107; choose a shorter directory\n"),
        "{}",
        ran.stderr
    );
}
