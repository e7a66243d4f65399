//! Help, completions and manual pages.

use clap::CommandFactory as _;
use insta::assert_snapshot;
use ostler::cli::args::Cli;

use crate::support::cli::{home, run_in};

#[test]
fn help_matches_snapshot_and_missing_command_is_usage_error() {
    let home = home();
    assert_snapshot!("help", run_in(&home, &["--help"], &[], "").transcript());
    let bare = run_in(&home, &[], &[], "");
    assert_eq!(bare.code, 2);
}

/// Users should not have to guess the usage of a command.
#[test]
fn every_command_that_takes_arguments_shows_examples() {
    let mut without = Vec::new();
    let mut commands: Vec<_> = Cli::command().get_subcommands().cloned().collect();
    while let Some(command) = commands.pop() {
        assert!(command.get_about().is_some(), "{} has no description", command.get_name());
        let helped = command.get_after_help().is_some_and(|help| help.to_string().contains("Examples:"));
        if command.has_subcommands() {
            commands.extend(command.get_subcommands().cloned());
        } else if command.get_arguments().count() > 1 && !helped {
            without.push(command.get_name().to_owned());
        }
    }
    assert_eq!(without, [] as [String; 0]);
}

#[test]
fn completions_and_manual_pages_cover_the_commands() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run_in(&home, &["completions", shell], &[], "");
        assert!(ran.code == 0 && ran.stdout.contains("undelete"), "{shell}: {}", ran.stderr);
    }
    assert!(run_in(&home, &["man"], &[], "").stdout.contains(".TH ostler 1"));
    let pages = home.path().join("man1");
    let ran = run_in(&home, &["man", "--dir", pages.to_str().unwrap()], &[], "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(pages.join("ostler-create.1").exists(), "the manual page of `create` is missing");
}
