//! All commands, arguments and help texts of the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use jiff::{SpanRelativeTo, fmt::friendly::SpanParser};

/// Manage long-lived, containerised agent workspaces on this machine.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Commands accept a workspace's name, its id, or a prefix of its id.

Examples:
  ostler serve                              run the daemon
  ostler create builder --image agent:1     create a workspace and wait until it is online
  ostler ls                                 list the workspaces
  ostler shell builder                      open a shell in the container
  ostler why builder                        explain the workspace's status

Exit codes:
  0 success   1 failed   2 invalid usage, input or configuration   3 not found
  4 not possible in the current state   5 the daemon does not answer";

/// Options of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file; `ostler config check` prints which file is read
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub config: Option<PathBuf>,
    /// Data directory, which contains the registry and the daemon's socket
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON; existing fields keep their meaning in later versions
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    #[command(after_help = "\
Logs go to standard error: as text on a terminal, as JSON otherwise (`log.format`).
SIGTERM or Ctrl-C stops the daemon; the workspaces' containers keep running. SIGHUP reloads the
configuration, like `ostler reload`.

Examples:
  ostler serve
  ostler --data-dir /srv/ostler serve
  OSTLER_LOG_LEVEL=debug ostler serve")]
    Serve,
    /// Create a workspace and start its container
    Create(Box<CreateArgs>),
    /// List workspaces as a tree
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show the status and settings of a workspace
    #[command(visible_alias = "inspect")]
    Show(ShowArgs),
    /// Print the output of a workspace's container
    Logs(LogsArgs),
    /// Run a command in a workspace's container
    Exec(ExecArgs),
    /// Open a shell in a workspace's container
    #[command(visible_alias = "sh")]
    Shell(ShellArgs),
    /// Start a stopped or failed workspace, and those stopped with it
    #[command(visible_alias = "resume")]
    Start(StartArgs),
    /// Stop a workspace and all workspaces below it
    #[command(visible_alias = "pause")]
    Stop(StopArgs),
    /// Hibernate a workspace; a message or `wake` wakes it
    #[command(visible_alias = "sleep")]
    Hibernate(HibernateArgs),
    /// Wake a hibernated workspace
    Wake(WakeArgs),
    /// Send a message to a workspace's agent and print the response
    #[command(visible_alias = "ask")]
    Message(MessageArgs),
    /// Change settings of a workspace, such as name, tier or environment
    #[command(visible_alias = "edit")]
    Set(Box<SetArgs>),
    /// Restart a workspace, with a new token
    Restart(RestartArgs),
    /// Replace a workspace's container with a new one that has the current settings
    Recreate(RecreateArgs),
    /// Remove a workspace; `undelete` restores it
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(RmArgs),
    /// Restore a removed workspace
    Undelete(UndeleteArgs),
    /// List, restore or delete the containers and volumes in the trash
    Trash(TrashArgs),
    /// Register existing containers again after the registry was lost or restored
    Adopt(AdoptArgs),
    /// Issue, list and revoke the tokens of agents and admins
    #[command(visible_alias = "tokens")]
    Token(TokenArgs),
    /// List and run the maintenance passes, and approve held plans
    #[command(visible_alias = "sweeps")]
    Sweep(SweepArgs),
    /// Print recent events, oldest first
    Events(EventsArgs),
    /// Explain a workspace's status by its events and their evidence
    Why(WhyArgs),
    /// Check this installation for problems and print how to fix them
    Doctor(DoctorArgs),
    /// Show, create or check the configuration
    Config(ConfigArgs),
    /// Make the daemon reload its configuration
    #[command(after_help = "\
Runtimes, access, `[external]`, restart budgets, grace periods, retention times, the size of new
logs and the log level apply at once, to everything that begins after the reload. Other changes,
such as ports, addresses, directories and the engine's socket, apply only after a restart of the
daemon; the command lists them. A configuration with an error changes nothing. SIGHUP has the same
effect, but the daemon writes the result to its log.

Examples:
  ostler config show                compare the file with the running daemon
  ostler reload")]
    Reload,
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  ostler completions bash > /etc/bash_completion.d/ostler
  ostler completions fish > ~/.config/fish/completions/ostler.fish")]
    Completions(CompletionsArgs),
    /// Print or write the manual pages
    #[command(after_help = "\
Examples:
  ostler man | man -l -
  ostler man --dir /usr/local/share/man/man1")]
    Man(ManArgs),
}

impl Command {
    /// Whether `--json` applies to this command. It does not apply to commands whose output has its own format: logs,
    /// the output of another program, a script or a manual page.
    #[must_use]
    pub fn has_json(&self) -> bool {
        !matches!(self, Self::Serve | Self::Exec(_) | Self::Shell(_) | Self::Completions(_) | Self::Man(_))
    }
}

/// `create`
#[derive(Debug, Args)]
#[command(after_help = "\
Waits until the workspace is online, or reports why it is not.

Examples:
  ostler create builder --image docker.io/library/alpine:3 -- sleep infinity
  ostler create tester --parent builder --runtime agent --env-file test.env
  ostler create notes --image agent:1 --dir ~/notes:ro
  ostler create phone --external            print the token and URLs for its agent")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct CreateArgs {
    /// Name of the workspace: letters and digits, and between them `-`, `_`, `.` and single spaces
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Container image [default: the runtime's]
    #[arg(long)]
    pub image: Option<String>,
    /// Parent workspace in the tree [default: none]
    #[arg(long, value_name = "NAME")]
    pub parent: Option<String>,
    /// Description of the workspace's purpose
    #[arg(long)]
    pub role: Option<String>,
    /// Runtime: `plain` for any image, `agent` for an agent that sends heartbeats, or one defined in `[runtimes]` of
    /// the configuration [default: plain]
    #[arg(long)]
    pub runtime: Option<String>,
    /// Resource tier: 1 (sandbox: 512 MiB, 1 CPU, read-only file system, no /workspace), 2 (512 MiB, 1 CPU),
    /// 3 (2 GiB, 2 CPUs) or 4 (4 GiB, 4 CPUs) [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4), allow_negative_numbers = true)]
    pub tier: Option<u8>,
    /// Environment variable of the container; without `=VALUE`, the value is taken from this shell's environment
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// File of KEY=VALUE lines; `--env` takes precedence. Lines that begin with `#` are comments; a value is everything
    /// after `=`, including quotes and `#`
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Directory of this machine to mount at /workspace instead of a volume; `:ro` makes it read-only
    #[arg(long, value_name = "PATH[:ro]")]
    pub dir: Option<String>,
    /// File to copy to /configs/config.yaml in the container
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Register an agent that runs elsewhere; no container is created
    #[arg(long, conflicts_with_all = ["image", "env", "env_file", "dir", "config_file", "command"])]
    pub external: bool,
    /// URL at which the external agent is reached, such as `http://192.168.1.7:8000`
    #[arg(long, requires = "external")]
    pub url: Option<String>,
    /// The agent polls for its messages: ostler stores them until then, instead of sending them to a URL
    #[arg(long, requires = "external", conflicts_with = "url")]
    pub poll: bool,
    /// Hibernate after this many idle minutes; a message wakes the workspace; 0 means never [default: 0]
    #[arg(long, value_name = "MINUTES", conflicts_with = "external", allow_negative_numbers = true)]
    pub hibernate_after: Option<u32>,
    /// Number of concurrent tasks that the agent accepts, as information for its peers; not enforced
    #[arg(long, value_name = "TASKS", allow_negative_numbers = true)]
    pub max_tasks: Option<u32>,
    /// Restart the workspace when it is stalled: busy for 5 minutes without heartbeat, message or progress
    #[arg(long, conflicts_with = "external")]
    pub restart_when_wedged: bool,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    pub no_wait: bool,
    /// Command to run instead of the image's own; if the image has an ENTRYPOINT, it receives these arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler ls
  ostler ls --removed          list what `undelete` can restore
  ostler ls --json | jq -r '.[] | select(.status == \"failed\") | .name'")]
pub struct LsArgs {
    /// List removed workspaces instead
    #[arg(long)]
    pub removed: bool,
    /// Print a flat list with ids instead of a tree
    #[arg(long)]
    pub flat: bool,
}

/// `show`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler show builder
  ostler show 6f1c --json")]
pub struct ShowArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
}

/// `logs`
#[derive(Debug, Args)]
#[command(after_help = "\
The container's standard error is printed to this command's standard error.
With `--json`, one object per line: {\"stream\": \"stdout\", \"line\": \"…\"}.

Examples:
  ostler logs builder --tail 100
  ostler logs -f builder")]
pub struct LogsArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Continue to print new output
    #[arg(long, short)]
    pub follow: bool,
    /// Print only the last LINES lines; at most the last 16 MiB of the log are read
    #[arg(long, short = 'n', value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<u32>,
}

/// `exec`
#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is that of the command. Standard input is forwarded only with `-i` or `-t`.
If this client is terminated, the command is terminated too. With `-i`, this happens when the command
next writes output.

Examples:
  ostler exec builder -- ls -l /workspace
  ostler exec builder -- tar cz /workspace > backup.tar.gz
  ostler exec -i builder -- tar xz -C /workspace < backup.tar.gz
  ostler exec -t builder -- top")]
pub struct ExecArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Forward standard input
    #[arg(long, short)]
    pub interactive: bool,
    /// Allocate a terminal for the command and forward its input
    #[arg(long, short)]
    pub tty: bool,
    /// Environment variable of the command; without `=VALUE`, the value is taken from this shell's environment
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// User to run as, such as `0:0` [default: the agent's user]
    #[arg(long, short)]
    pub user: Option<String>,
    /// Command to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `shell`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler shell builder
  ostler shell --user 0:0 builder      as root in the container")]
pub struct ShellArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// User to run as, such as `0:0` [default: the agent's user]
    #[arg(long, short)]
    pub user: Option<String>,
}

/// `start`
#[derive(Debug, Args)]
#[command(after_help = "\
Waits until the workspace is online, or reports why it is not.

Examples:
  ostler start builder
  ostler start builder --new-volume     start with an empty volume after the old one was lost")]
pub struct StartArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// If the work volume is missing, create a new, empty work volume
    #[arg(long)]
    pub new_volume: bool,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `hibernate`
#[derive(Debug, Args)]
#[command(after_help = "\
The container is stopped and kept, so that waking is fast. Refused while the agent has active tasks or requests.
A workspace with `--hibernate-after` hibernates automatically.

Examples:
  ostler hibernate builder
  ostler hibernate builder --force")]
pub struct HibernateArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Hibernate even while the agent has active tasks or requests
    #[arg(long)]
    pub force: bool,
    /// Return when the request is accepted, without waiting until the workspace is hibernated
    #[arg(long)]
    pub no_wait: bool,
}

/// `wake`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler wake builder")]
pub struct WakeArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `message`
#[derive(Debug, Args)]
#[command(after_help = "\
The message is delivered like a message between agents: it wakes a hibernated workspace, but does not start a
stopped one.

Examples:
  ostler message builder hello
  ostler message lead 'ask builder for its progress'
  ostler message builder --json hello        print the whole response")]
pub struct MessageArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Text of the message; several arguments are joined with spaces
    #[arg(required = true, num_args = 1.., value_name = "TEXT")]
    pub text: Vec<String>,
}

/// `set`
#[derive(Debug, Args)]
#[command(after_help = "\
Settings that are not given keep their values. Settings of the container, such as image, command and environment,
take effect with `ostler recreate`.

Examples:
  ostler set builder --hibernate-after 30
  ostler set builder --parent lead
  ostler set builder --name tester --role 'runs the tests'
  ostler set builder --env LEVEL=debug --unset-env API_KEY
  ostler set builder -- serve --all && ostler recreate builder")]
pub struct SetArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// New name
    #[arg(long = "name", id = "new_name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// Description of the workspace's purpose; an empty text removes the description
    #[arg(long)]
    pub role: Option<String>,
    /// Resource tier: 1 (sandbox), 2 (512 MiB), 3 (2 GiB) or 4 (4 GiB)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4), allow_negative_numbers = true)]
    pub tier: Option<u8>,
    /// Parent workspace; with an empty text, the workspace has no parent
    #[arg(long, value_name = "NAME")]
    pub parent: Option<String>,
    /// Runtime: `plain`, `agent`, or one defined in `[runtimes]` of the configuration
    #[arg(long)]
    pub runtime: Option<String>,
    /// Container image
    #[arg(long)]
    pub image: Option<String>,
    /// Environment variable to set; others are kept. Without `=VALUE`, the value is taken from this shell's environment
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// File of KEY=VALUE lines to set; `--env` takes precedence
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Environment variable to remove
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub unset_env: Vec<String>,
    /// Directory of this machine to mount at /workspace; only for a workspace that was created with `--dir`
    #[arg(long, value_name = "PATH[:ro]")]
    pub dir: Option<String>,
    /// File to copy to /configs/config.yaml at the next start, which overwrites the existing file
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Remove the workspace's own command, so that the command of the runtime or image is run
    #[arg(long, conflicts_with = "command")]
    pub default_command: bool,
    /// URL at which the external agent is reached; an empty text removes the URL
    #[arg(long)]
    pub url: Option<String>,
    /// Hibernate after this many idle minutes; 0 means never
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    pub hibernate_after: Option<u32>,
    /// Number of concurrent tasks that the agent accepts; 0 means unknown
    #[arg(long, value_name = "TASKS", allow_negative_numbers = true)]
    pub max_tasks: Option<u32>,
    /// Whether to restart the workspace when it is stalled: busy for 5 minutes without heartbeat, message or progress
    #[arg(long, value_name = "BOOL")]
    pub restart_when_wedged: Option<bool>,
    /// Command to run instead of the image's own; if the image has an ENTRYPOINT, it receives these arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `stop`
#[derive(Debug, Args)]
#[command(after_help = "\
The workspaces stay stopped until they are started. Their containers are kept, with their file systems.
`ostler start` also starts the workspaces that were stopped together with the given one.

Examples:
  ostler stop builder")]
pub struct StopArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Return when the request is accepted, without waiting until the container has stopped
    #[arg(long)]
    pub no_wait: bool,
}

/// `restart`
#[derive(Debug, Args)]
#[command(after_help = "\
A stopped workspace is started, together with the workspaces that were stopped with it.

Examples:
  ostler restart builder")]
pub struct RestartArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `recreate`
#[derive(Debug, Args)]
#[command(after_help = "\
The volumes are kept. Files outside /configs and /workspace, such as a home directory, are moved to the trash with
the old container. A stopped or hibernated workspace is started, together with the workspaces that were stopped
with it. `ostler ls` marks a workspace as drifted if its settings differ from those of its container.

Examples:
  ostler recreate builder")]
pub struct RecreateArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Return when the request is accepted, without waiting until the workspace is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Container and volumes are moved to the trash and kept for `sweep.trash_retention` (default: 14 days).
A workspace with workspaces below it is removed only with `--cascade`. `--purge` asks for confirmation on a terminal.

Examples:
  ostler rm builder
  ostler rm --cascade builder
  ostler undelete builder")]
pub struct RmArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Also remove all workspaces below this one
    #[arg(long)]
    pub cascade: bool,
    /// Delete container and volumes immediately and permanently
    #[arg(long)]
    pub purge: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,
}

/// `undelete`
#[derive(Debug, Args)]
#[command(after_help = "\
Restores the workspace, and the workspaces that `rm --cascade` removed with it, in the stopped state.
`ostler start` starts them.

Examples:
  ostler undelete builder
  ostler undelete builder --only              without the workspaces below it
  ostler undelete 6f1c --name old-builder     if the name is in use again")]
pub struct UndeleteArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Restore the workspace under another name
    #[arg(long = "name", value_name = "NEW")]
    pub new_name: Option<String>,
    /// Do not restore the workspaces that were removed together with this one
    #[arg(long)]
    pub only: bool,
    /// Return when the request is accepted, without waiting until the workspace is restored
    #[arg(long)]
    pub no_wait: bool,
}

/// `trash`
#[derive(Debug, Args)]
pub struct TrashArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: TrashCommand,
}

/// A command about the trash.
#[derive(Debug, Subcommand)]
pub enum TrashCommand {
    /// List the entries in the trash and until when they are kept
    #[command(visible_alias = "list")]
    Ls,
    /// Restore an entry
    #[command(after_help = "\
Examples:
  ostler trash restore 0b5e
  ostler trash restore builder")]
    Restore {
        /// Id of the entry, a prefix of it, or the workspace's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        entry: String,
    },
    /// Delete entries permanently
    #[command(after_help = "\
Asks for confirmation on a terminal; elsewhere `--yes` is required.

Examples:
  ostler trash empty
  ostler trash empty 0b5e builder --yes")]
    Empty {
        /// Ids of entries, prefixes of ids, or workspaces' names [default: all entries]
        entries: Vec<String>,
        /// Do not ask for confirmation
        #[arg(long, short)]
        yes: bool,
    },
}

/// `adopt`
#[derive(Debug, Args)]
#[command(after_help = "\
After the registry was lost or restored from a backup, Podman may have containers that the registry
does not know. `adopt` registers them again. Without arguments, it prints what can be adopted.
Running agents are not interrupted and keep their tokens.

Examples:
  ostler adopt                     list what can be adopted
  ostler adopt builder tester
  ostler adopt --all               adopt everything and end the recovery
  ostler adopt --instance 6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11 --all")]
pub struct AdoptArgs {
    /// Names, ids or prefixes of ids
    pub which: Vec<String>,
    /// Adopt everything that the registry does not know
    #[arg(long, conflicts_with = "which")]
    pub all: bool,
    /// Print what would be adopted, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Id of the installation whose containers are adopted; the registry must be empty
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

/// `token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// A command about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Issue a token for a workspace
    #[command(after_help = "\
Standard output contains only the token. It cannot be shown again: the registry stores only its digest.
An admin token permits everything that this command line permits; with `--admin`, the name is a label.

Examples:
  ostler token issue builder
  ostler token issue --admin dashboard --expires 90d
  TOKEN=$(ostler token issue builder --expires 30d)")]
    Issue {
        /// Name, id or prefix of the id of the workspace; with `--admin`, a label for the token
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Issue an admin token
        #[arg(long)]
        admin: bool,
        /// Duration for which the token is valid, such as 12h or 30d [default: until revoked]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        expires: Option<Duration>,
    },
    /// List the valid tokens of a workspace
    #[command(
        visible_alias = "list",
        after_help = "\
Examples:
  ostler token ls builder
  ostler token ls --admin"
    )]
    Ls {
        /// Name, id or prefix of the id
        #[arg(value_parser = NonEmptyStringValueParser::new(), required_unless_present = "admin")]
        name: Option<String>,
        /// List the admin tokens
        #[arg(long, conflicts_with = "name")]
        admin: bool,
    },
    /// Revoke a token
    #[command(after_help = "\
Examples:
  ostler token ls builder
  ostler token revoke builder 41d0
  ostler token revoke --admin 77c2")]
    Revoke {
        /// Name, id or prefix of the id of the workspace; with `--admin`, the id of the token
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Id of the token from `token ls`, or a prefix of it
        // Tokens issued by older versions may begin with a hyphen.
        #[arg(
            value_parser = NonEmptyStringValueParser::new(),
            required_unless_present = "admin",
            allow_hyphen_values = true
        )]
        token: Option<String>,
        /// Revoke an admin token
        #[arg(long, conflicts_with = "token")]
        admin: bool,
    },
}

/// `sweep`
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: SweepCommand,
}

/// A command about passes.
#[derive(Debug, Subcommand)]
pub enum SweepCommand {
    /// List the passes and the outcome of their last runs
    #[command(visible_alias = "ls")]
    List,
    /// Show a pass, its last run, and a plan that is held for approval
    Show {
        /// Name of the pass
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pass: String,
    },
    /// Run passes now
    #[command(after_help = "\
A dry run prints the planned actions with their evidence. It also works while the daemon is stopped.

Examples:
  ostler sweep run --dry-run
  ostler sweep run reap_unknown")]
    Run {
        /// Names of the passes [default: all]
        passes: Vec<String>,
        /// Print the plan without applying it
        #[arg(long)]
        dry_run: bool,
    },
    /// Approve a plan that the breaker held because it affects too many workspaces at once
    #[command(after_help = "\
Approves exactly the actions that `ostler sweep show PASS` lists, and nothing else.

Examples:
  ostler sweep approve reap_unknown 9a3c")]
    Approve {
        /// Name of the pass
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pass: String,
        /// Id of the plan, or a prefix of it
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        plan: String,
    },
}

/// `events`
#[derive(Debug, Args)]
#[command(after_help = "\
With `--json` and `-f`, prints one event per line.

Examples:
  ostler events -n 50
  ostler events -f builder")]
pub struct EventsArgs {
    /// Print only events of this workspace
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Continue to print new events, also across restarts of the daemon
    #[arg(long, short)]
    pub follow: bool,
    /// Print every field of the events, with whole ids
    #[arg(long, short)]
    pub verbose: bool,
    /// Number of events to print
    #[arg(
        long,
        short = 'n',
        value_name = "COUNT",
        default_value_t = 20,
        value_parser = clap::value_parser!(u32).range(1..),
        allow_negative_numbers = true
    )]
    pub limit: u32,
}

/// `why`
#[derive(Debug, Args)]
#[command(after_help = "\
Status changes, moves to the trash and refused requests of agents are recorded, with the evidence for each.

Examples:
  ostler why builder
  ostler why -v builder")]
pub struct WhyArgs {
    /// Name, id or prefix of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Print every field of the events, with whole ids, and the log lines of each event
    #[arg(long, short)]
    pub verbose: bool,
    /// Number of events to print
    #[arg(
        long,
        short = 'n',
        value_name = "COUNT",
        default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(1..),
        allow_negative_numbers = true
    )]
    pub limit: u32,
}

/// `doctor`
#[derive(Debug, Args)]
#[command(after_help = "\
The exit code is 1 if a check fails; warnings do not count. Also works while the daemon is stopped.

Examples:
  ostler doctor
  ostler doctor --accept-engine     continue with this engine or storage
  ostler doctor --accept-copy       continue with this copied data directory")]
pub struct DoctorArgs {
    /// Accept the current Podman engine and storage as the one that holds the workspaces
    #[arg(long)]
    pub accept_engine: bool,
    /// Accept this copied data directory as the one to continue with; the daemon must be stopped
    #[arg(long, conflicts_with = "accept_engine")]
    pub accept_copy: bool,
}

/// `config`
#[derive(Debug, Args)]
#[command(after_help = "\
Order of precedence: flags, environment variables (OSTLER_SWEEP_UNKNOWN_GRACE sets
sweep.unknown_grace), the configuration file, defaults.")]
pub struct ConfigArgs {
    /// The subcommand.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// A command about the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every key with its value and source, and where the running daemon differs
    Show,
    /// Write a commented configuration file; an existing file is not overwritten
    Init,
    /// Check the configuration without applying it
    Check,
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell for which to print the script
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write all pages to this directory instead of printing the main page
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let span = SpanParser::new().parse_span(text).ok();
    let signed = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    signed
        .and_then(|signed| Duration::try_from(signed).ok())
        .filter(|duration| duration.as_secs() > 0)
        .ok_or_else(|| "expected a duration such as \"12h\" or \"30d\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn cli_definition_passes_clap_debug_assertions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn token_expiry_parses_durations_and_refuses_invalid_ones() {
        assert_eq!(duration("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        for wrong in ["", "30", "-1h", "500ms", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was accepted as a duration");
        }
    }
}
