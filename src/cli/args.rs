//! All commands, arguments and help texts of the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, builder::NonEmptyStringValueParser};
use jiff::{SpanRelativeTo, fmt::friendly::SpanParser};

/// Keeps long-lived, containerised agent workspaces on this machine.
#[derive(Debug, Parser)]
#[command(name = "ostler", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
A workspace is called by its name, its id, or the beginning of its id.

Examples:
  ostler serve                              run the daemon
  ostler create builder --image agent:1     make a workspace, and wait until it is online
  ostler ls                                 what there is
  ostler shell builder                      go inside
  ostler why builder                        why it is as it is

Exit codes:
  0 done   1 failed   2 wrong usage, input or configuration   3 not found
  4 cannot be done as things are   5 the daemon does not answer";

/// What holds for every command.
#[derive(Debug, Args)]
pub struct Global {
    /// The configuration file; `ostler config check` names the one that is read
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,
    /// Where the registry lives
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub data_dir: Option<PathBuf>,
    /// Answer in JSON, whose fields never change their meaning
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    #[command(after_help = "\
Logs go to standard error: for people on a terminal, as JSON otherwise (`log.format`).
It stops at SIGTERM or Ctrl-C; the workspaces' containers run on. SIGHUP makes it read its
configuration again (`ostler reload`).

Examples:
  ostler serve
  ostler --data-dir /srv/ostler serve
  OSTLER_LOG_LEVEL=debug ostler serve")]
    Serve,
    /// Make a workspace
    Create(Box<CreateArgs>),
    /// List workspaces, as a tree
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a workspace
    #[command(visible_alias = "inspect")]
    Show(ShowArgs),
    /// Print what a workspace wrote
    Logs(LogsArgs),
    /// Run a command inside a workspace
    Exec(ExecArgs),
    /// Open a shell inside a workspace
    #[command(visible_alias = "sh")]
    Shell(ShellArgs),
    /// Start a workspace that is stopped or has failed, with what was stopped along
    #[command(visible_alias = "resume")]
    Start(StartArgs),
    /// Stop a workspace and all below it, until it is started
    #[command(visible_alias = "pause")]
    Stop(StopArgs),
    /// Put a workspace to sleep; a message, or `wake`, wakes it
    #[command(visible_alias = "sleep")]
    Hibernate(HibernateArgs),
    /// Wake a workspace that sleeps
    Wake(WakeArgs),
    /// Send a message to a workspace's agent, and print its answer
    #[command(visible_alias = "ask")]
    Message(MessageArgs),
    /// Change a workspace: its name, place, tier, habits
    #[command(visible_alias = "edit")]
    Set(Box<SetArgs>),
    /// Stop a workspace and start it again, with a new token
    Restart(RestartArgs),
    /// Make a workspace's container anew, with what is configured now
    Recreate(RecreateArgs),
    /// Remove a workspace; `undelete` takes it back
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(RmArgs),
    /// Take a removal back
    Undelete(UndeleteArgs),
    /// What was removed or reaped, and is kept for a while
    Trash(TrashArgs),
    /// Take containers into the registry that it has lost
    Adopt(AdoptArgs),
    /// Tokens by which agents speak
    #[command(visible_alias = "tokens")]
    Token(TokenArgs),
    /// The passes that keep everything as it should be
    #[command(visible_alias = "sweeps")]
    Sweep(SweepArgs),
    /// What happened, oldest first
    Events(EventsArgs),
    /// Tell why a workspace is as it is, with the evidence
    Why(WhyArgs),
    /// Look for what is wrong with this installation, and say what to do
    Doctor(DoctorArgs),
    /// The configuration
    Config(ConfigArgs),
    /// Make the daemon read its configuration again
    #[command(after_help = "\
Runtimes, access, restart budgets, graces, retentions and the log's level apply at once: to
whatever begins from then on. What is in use since the start (ports, addresses, directories, the
engine's socket) is listed, and waits for a restart. A configuration with an error changes nothing.
SIGHUP does the same, and reports in the daemon's log.

Examples:
  ostler config show                what differs now
  ostler reload")]
    Reload,
    /// Print completions for a shell
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
    /// Whether its answer can be JSON. The others hand on what is somebody else's.
    #[must_use]
    pub fn has_json(&self) -> bool {
        !matches!(self, Self::Serve | Self::Exec(_) | Self::Shell(_) | Self::Completions(_) | Self::Man(_))
    }
}

/// `create`
#[derive(Debug, Args)]
#[command(after_help = "\
Waits until the workspace is online, or says why it is not.

Examples:
  ostler create builder --image docker.io/library/alpine:3 -- sleep infinity
  ostler create tester --parent builder --runtime agent --env-file test.env
  ostler create notes --image agent:1 --dir ~/notes:ro
  ostler create phone --external            prints how its agent connects")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct CreateArgs {
    /// Its name: letters, digits, and inside it `-`, `_`, `.` and single spaces
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// The image [default: the runtime's]
    #[arg(long)]
    pub image: Option<String>,
    /// The workspace above it
    #[arg(long, value_name = "NAME")]
    pub parent: Option<String>,
    /// What it is for
    #[arg(long)]
    pub role: Option<String>,
    /// The kind of workspace: `plain` for any image, `agent` for one that speaks the protocol, or one from
    /// `[runtimes]` of the configuration [default: plain]
    #[arg(long)]
    pub runtime: Option<String>,
    /// How much of the machine it gets: 1 sandbox, 2 512 MiB, 3 2 GiB, 4 4 GiB [default: 2]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4), allow_negative_numbers = true)]
    pub tier: Option<u8>,
    /// A variable of its environment; without a value, this environment's
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// A file of such variables, one per line; `--env` comes before it. Lines that begin with `#` are comments; a value is
    /// everything after `=`, quotes and `#` included
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// A directory of this machine at /workspace, in place of a volume
    #[arg(long, value_name = "PATH[:ro]")]
    pub dir: Option<String>,
    /// The file for /configs/config.yaml
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Its agent runs elsewhere: only keep it in the registry
    #[arg(long, conflicts_with_all = ["image", "env", "env_file", "dir", "config_file", "command"])]
    pub external: bool,
    /// Where an external agent is reached
    #[arg(long, requires = "external")]
    pub url: Option<String>,
    /// Its agent polls its messages: they are stored for it, and not sent
    #[arg(long, requires = "external", conflicts_with = "url")]
    pub poll: bool,
    /// Put to sleep after so many idle minutes, 0 for never; a message wakes it
    #[arg(long, value_name = "MINUTES", conflicts_with = "external", allow_negative_numbers = true)]
    pub sleep_after: Option<u32>,
    /// How many tasks its agent takes on at once, for its peers to know
    #[arg(long, value_name = "TASKS", allow_negative_numbers = true)]
    pub max_tasks: Option<u32>,
    /// Start it anew when it is busy and nothing comes of it
    #[arg(long, conflicts_with = "external")]
    pub restart_when_wedged: bool,
    /// Do not wait until it is online
    #[arg(long)]
    pub no_wait: bool,
    /// The command in place of the image's own; an ENTRYPOINT of the image stays and gets it as arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `ls`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler ls
  ostler ls --removed          what `undelete` can bring back
  ostler ls --json | jq -r '.[] | select(.status == \"failed\") | .name'")]
pub struct LsArgs {
    /// The removed ones instead
    #[arg(long)]
    pub removed: bool,
    /// A plain list with ids, not a tree
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
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
}

/// `logs`
#[derive(Debug, Args)]
#[command(after_help = "\
What the workspace wrote to its standard error comes out of this command's standard error.
With `--json`, one object per line: {\"stream\": \"stdout\", \"line\": \"…\"}.

Examples:
  ostler logs builder --tail 100
  ostler logs -f builder")]
pub struct LogsArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Go on printing as it writes
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last lines, looked for in the last 16 MiB
    #[arg(long, short = 'n', value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<u32>,
}

/// `exec`
#[derive(Debug, Args)]
#[command(after_help = "\
Ends with the command's own exit code. Input is passed on only with `-i` or `-t`.
When this client is ended, the command is ended too; with `-i` only once it writes something.

Examples:
  ostler exec builder -- ls -l /workspace
  ostler exec builder -- tar cz /workspace > backup.tar.gz
  ostler exec -i builder -- tar xz -C /workspace < backup.tar.gz
  ostler exec -t builder -- top")]
pub struct ExecArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Pass this command's input on
    #[arg(long, short)]
    pub interactive: bool,
    /// Give the command a terminal, and pass its input on
    #[arg(long, short)]
    pub tty: bool,
    /// A variable of its environment; without a value, this environment's
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Run as this user instead of the agent
    #[arg(long, short)]
    pub user: Option<String>,
    /// The command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `shell`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler shell builder
  ostler shell --user 0:0 builder      as root of the container")]
pub struct ShellArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Run as this user instead of the agent
    #[arg(long, short)]
    pub user: Option<String>,
}

/// `start`
#[derive(Debug, Args)]
#[command(after_help = "\
Waits until the workspace is online, or says why it is not.

Examples:
  ostler start builder
  ostler start builder --new-volume     its work is lost; begin with an empty volume")]
pub struct StartArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Where its work volume is gone, make a new and empty one
    #[arg(long)]
    pub new_volume: bool,
    /// Do not wait until it is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `hibernate`
#[derive(Debug, Args)]
#[command(after_help = "\
Its container is stopped and kept, so that it is awake again in a moment. Refused while it works on something.
A workspace made with `--sleep-after` falls asleep by itself.

Examples:
  ostler hibernate builder
  ostler hibernate builder --force")]
pub struct HibernateArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Even while it works on something
    #[arg(long)]
    pub force: bool,
    /// Do not wait until it sleeps
    #[arg(long)]
    pub no_wait: bool,
}

/// `wake`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ostler wake builder")]
pub struct WakeArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Do not wait until it is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `message`
#[derive(Debug, Args)]
#[command(after_help = "\
The message goes the way that agents' messages go: a workspace that sleeps is woken, one that is stopped is not.

Examples:
  ostler message builder hello
  ostler message lead 'ask builder how far it is'
  ostler message builder --json hello        the whole answer")]
pub struct MessageArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// What to say
    #[arg(required = true, num_args = 1.., value_name = "TEXT")]
    pub text: Vec<String>,
}

/// `set`
#[derive(Debug, Args)]
#[command(after_help = "\
What is not given stays as it is. What a container is made from takes effect with `ostler recreate`.

Examples:
  ostler set builder --sleep-after 30
  ostler set builder --parent lead
  ostler set builder --name tester --role 'runs the tests'
  ostler set builder --env LEVEL=debug --unset-env API_KEY
  ostler set builder -- serve --all && ostler recreate builder")]
pub struct SetArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Another name
    #[arg(long = "name", id = "new_name", value_name = "NAME")]
    pub new_name: Option<String>,
    /// What it is for; empty for nothing
    #[arg(long)]
    pub role: Option<String>,
    /// How much of the machine it gets
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4), allow_negative_numbers = true)]
    pub tier: Option<u8>,
    /// The workspace above it; empty for none
    #[arg(long, value_name = "NAME")]
    pub parent: Option<String>,
    /// The kind of workspace, from `[runtimes]` of the configuration
    #[arg(long)]
    pub runtime: Option<String>,
    /// The image
    #[arg(long)]
    pub image: Option<String>,
    /// A variable of its environment, others stay; without a value, this environment's
    #[arg(long, short, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// A file of such variables, one per line; `--env` comes before it
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// A variable to remove from its environment
    #[arg(long, value_name = "KEY", value_parser = NonEmptyStringValueParser::new())]
    pub unset_env: Vec<String>,
    /// Another directory of this machine at /workspace; never in place of a volume
    #[arg(long, value_name = "PATH[:ro]")]
    pub dir: Option<String>,
    /// The file for /configs/config.yaml: its next start writes it over the one that is there
    #[arg(long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// The command of its runtime or image again, in place of the one given
    #[arg(long, conflicts_with = "command")]
    pub default_command: bool,
    /// Where an external agent is reached; empty for nowhere
    #[arg(long)]
    pub url: Option<String>,
    /// Put to sleep after so many idle minutes; 0 for never
    #[arg(long, value_name = "MINUTES", allow_negative_numbers = true)]
    pub sleep_after: Option<u32>,
    /// How many tasks its agent takes on at once; 0 for unknown
    #[arg(long, value_name = "TASKS", allow_negative_numbers = true)]
    pub max_tasks: Option<u32>,
    /// Whether it is started anew when it is busy and nothing comes of it
    #[arg(long, value_name = "BOOL")]
    pub restart_when_wedged: Option<bool>,
    /// The command in place of the image's own; an ENTRYPOINT of the image stays and gets it as arguments
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `stop`
#[derive(Debug, Args)]
#[command(after_help = "\
The containers are kept, with their own file systems. What is stopped along with a workspace starts along with it.

Examples:
  ostler stop builder")]
pub struct StopArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Do not wait until its container has stopped
    #[arg(long)]
    pub no_wait: bool,
}

/// `restart`
#[derive(Debug, Args)]
#[command(after_help = "\
A stopped workspace is started, with what was stopped along with it.

Examples:
  ostler restart builder")]
pub struct RestartArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Do not wait until it is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `recreate`
#[derive(Debug, Args)]
#[command(after_help = "\
The volumes stay. What was written elsewhere in the old container, a home directory too, goes into the trash with it.
A stopped or hibernated workspace is started, with what was stopped along with it.
`ostler ls` marks workspaces that need this as drifted.

Examples:
  ostler recreate builder")]
pub struct RecreateArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Do not wait until it is online
    #[arg(long)]
    pub no_wait: bool,
}

/// `rm`
#[derive(Debug, Args)]
#[command(after_help = "\
Container and volumes go into the trash and are kept there for `sweep.trash_retention` (14 days).
With workspaces below it, nothing is removed unless `--cascade` is given. `--purge` asks first on a terminal.

Examples:
  ostler rm builder
  ostler rm --cascade builder
  ostler undelete builder")]
pub struct RmArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Everything below it too
    #[arg(long)]
    pub cascade: bool,
    /// Delete container and volumes at once and for good
    #[arg(long)]
    pub purge: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `undelete`
#[derive(Debug, Args)]
#[command(after_help = "\
The workspace comes back stopped, and with it what `rm --cascade` removed along with it; start them with
`ostler start`.

Examples:
  ostler undelete builder
  ostler undelete builder --only              without the workspaces below it
  ostler undelete 6f1c --name old-builder     where the name is taken again")]
pub struct UndeleteArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Come back under another name
    #[arg(long = "name", value_name = "NEW")]
    pub new_name: Option<String>,
    /// Leave removed what was removed along with it
    #[arg(long)]
    pub only: bool,
    /// Do not wait until it is done
    #[arg(long)]
    pub no_wait: bool,
}

/// `trash`
#[derive(Debug, Args)]
pub struct TrashArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub command: TrashCommand,
}

/// A command about the trash.
#[derive(Debug, Subcommand)]
pub enum TrashCommand {
    /// List what lies in the trash, and until when
    #[command(visible_alias = "list")]
    Ls,
    /// Bring an entry back
    #[command(after_help = "\
Examples:
  ostler trash restore 0b5e
  ostler trash restore builder")]
    Restore {
        /// The entry's id, its beginning, or the workspace's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        entry: String,
    },
    /// Delete entries for good
    #[command(after_help = "\
Asks first on a terminal; elsewhere it needs `--yes`.

Examples:
  ostler trash empty
  ostler trash empty 0b5e builder --yes")]
    Empty {
        /// Ids, their beginnings, or workspaces' names [default: everything]
        entries: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// `adopt`
#[derive(Debug, Args)]
#[command(after_help = "\
For a registry that was lost, or restored from a backup: its containers run on, and the registry
does not know them. Without arguments it tells what could be adopted. Agents that run go on
without noticing.

Examples:
  ostler adopt                     what could be adopted
  ostler adopt builder tester
  ostler adopt --all               everything, and end the recovery
  ostler adopt --instance 6f1c0c5e-0d0f-4c58-9b0e-0a4c1b7e2d11 --all")]
pub struct AdoptArgs {
    /// Names, ids or beginnings of ids
    pub which: Vec<String>,
    /// Everything that is unknown
    #[arg(long, conflicts_with = "which")]
    pub all: bool,
    /// Only tell what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Take over the containers of this installation, into an empty registry
    #[arg(long, value_name = "ID")]
    pub instance: Option<String>,
}

/// `token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// A command about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Issue a token that speaks for a workspace
    #[command(after_help = "\
The token alone goes to standard output, this once; the registry keeps only its digest. An admin token may do
everything that this command line may: `--admin` with a name that says what it is for.

Examples:
  ostler token issue builder
  ostler token issue --admin dashboard --expires 90d
  TOKEN=$(ostler token issue builder --expires 30d)")]
    Issue {
        /// Name, id or beginning of the id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// Issue an admin token; the name only says what it is for
        #[arg(long)]
        admin: bool,
        /// How long it is valid, such as 12h or 30d [default: until revoked]
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
        /// Name, id or beginning of the id
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
        /// Name, id or beginning of the id; of an admin token, its own id
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// The token's id, or what it begins with, from `token ls`
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
    /// What to do.
    #[command(subcommand)]
    pub command: SweepCommand,
}

/// A command about passes.
#[derive(Debug, Subcommand)]
pub enum SweepCommand {
    /// List the passes, and how their last run went
    #[command(visible_alias = "ls")]
    List,
    /// Show a pass, its last run and a plan that waits for approval
    Show {
        /// The pass
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pass: String,
    },
    /// Run passes now
    #[command(after_help = "\
A dry run tells what would be done, and on what evidence. It works without the daemon too.

Examples:
  ostler sweep run --dry-run
  ostler sweep run reap_unknown")]
    Run {
        /// The passes [default: all]
        passes: Vec<String>,
        /// Only plan
        #[arg(long)]
        dry_run: bool,
    },
    /// Approve a plan that was held because it would have hit too much at once
    #[command(after_help = "\
Approves exactly the actions that `sweep show PASS` lists, and nothing else.

Examples:
  ostler sweep approve reap_unknown 9a3c")]
    Approve {
        /// The pass
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        pass: String,
        /// The plan's id, or its beginning
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        plan: String,
    },
}

/// `events`
#[derive(Debug, Args)]
#[command(after_help = "\
With `--json` and `-f`, one event per line.

Examples:
  ostler events -n 50
  ostler events -f builder")]
pub struct EventsArgs {
    /// Only those of this workspace
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,
    /// Go on as they happen, across restarts of the daemon
    #[arg(long, short)]
    pub follow: bool,
    /// How many
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
Every status, reaping and refusal is kept with what it was decided on.

Examples:
  ostler why builder")]
pub struct WhyArgs {
    /// Name, id or beginning of the id
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// How many events
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
Fails (1) if a check fails; warnings do not count. Works without the daemon too.

Examples:
  ostler doctor
  ostler doctor --accept-engine     this other engine, or storage, is the one from now on
  ostler doctor --accept-copy       this copied data directory is the one from now on")]
pub struct DoctorArgs {
    /// Take the engine as it is now for ours
    #[arg(long)]
    pub accept_engine: bool,
    /// Take this data directory, which was copied, for the one to go on with; the daemon must be stopped
    #[arg(long, conflicts_with = "accept_engine")]
    pub accept_copy: bool,
}

/// `config`
#[derive(Debug, Args)]
#[command(after_help = "\
Flags come before the environment (OSTLER_SWEEP_UNKNOWN_GRACE is sweep.unknown_grace), the
environment before the file, and the file before the defaults.")]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// A command about the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every key, its value, where that comes from, and where the running daemon differs
    Show,
    /// Write a commented file; never over one that exists
    Init,
    /// Check the configuration without using it
    Check,
}

/// `completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write every page into this directory, in place of printing the main one
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
    fn the_surface_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_token_expires_after_a_duration_people_write() {
        assert_eq!(duration("30d"), Ok(Duration::from_hours(720)));
        assert_eq!(duration("1h 30m"), Ok(Duration::from_mins(90)));
        for wrong in ["", "30", "-1h", "500ms", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong:?} was taken for a duration");
        }
    }
}
