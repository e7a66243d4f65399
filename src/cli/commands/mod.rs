//! The commands. Each has a file with its arguments, its help and its `run`, and in this file a `mod` line and a row in
//! the table of commands.

mod adopt;
mod completions;
mod config;
mod create;
mod doctor;
mod events;
mod exec;
mod hibernate;
mod logs;
mod ls;
mod man;
mod message;
mod operations;
mod recreate;
mod reload;
mod restart;
mod rm;
mod serve;
mod set;
mod shell;
mod show;
mod start;
mod stop;
mod sweep;
mod token;
mod trash;
mod undelete;
mod wake;
mod why;

use super::{client::Client, failure::Failure, host::Host, output::Output, session::Session};

/// Defines the commands from one table: variant of [`Command`], output, and how the command is run.
///
/// `json` means that `--json` applies to the command. It does not apply to commands whose output has its own format
/// (`own_format`): logs, the output of another program, a script or a manual page. The names before the table are those
/// by which its expressions use the arguments, the output, the host and the session.
macro_rules! define_commands {
    ($args:ident, $out:ident, $host:ident, $session:ident: $(
        $(#[$meta:meta])*
        $name:ident($type:ty) $output:ident => $run:expr;
    )*) => {
        /// A command. Its help is the documentation of its `Args`.
        #[derive(Debug, clap::Subcommand)]
        pub(super) enum Command {
            $($(#[$meta])* $name($type),)*
        }

        impl Command {
            /// Whether `--json` applies to this command.
            pub(super) fn has_json(&self) -> bool {
                match self {
                    $(Self::$name(_) => has_json!($output),)*
                }
            }

            /// Runs the command. Returns the process's exit code.
            pub(super) async fn run(self, $out: Output, $host: &dyn Host) -> Result<u8, Failure> {
                // Created only by the commands that need it: the others have to work with an invalid configuration.
                let $session =
                    || Ok::<_, Failure>(Session { client: Client::new($host.socket()?), out: $out, host: $host });
                match self {
                    $(Self::$name($args) => $run,)*
                }
            }
        }
    };
}

macro_rules! has_json {
    (json) => {
        true
    };
    (own_format) => {
        false
    };
}

define_commands! {
    args, out, host, session:
    Serve(serve::Args) own_format => serve::run(&args, host).await;
    Create(Box<create::Args>) json => create::run(&session()?, *args).await;
    #[command(visible_alias = "list")]
    Ls(ls::Args) json => ls::run(&session()?, &args).await;
    #[command(visible_alias = "inspect")]
    Show(show::Args) json => show::run(&session()?, &args).await;
    Logs(logs::Args) json => logs::run(&session()?, &args).await;
    Exec(exec::Args) own_format => exec::run(&session()?, args).await;
    #[command(visible_alias = "sh")]
    Shell(shell::Args) own_format => shell::run(&session()?, args).await;
    #[command(visible_alias = "resume")]
    Start(start::Args) json => start::run(&session()?, &args).await;
    #[command(visible_alias = "pause")]
    Stop(stop::Args) json => stop::run(&session()?, &args).await;
    #[command(visible_alias = "sleep")]
    Hibernate(hibernate::Args) json => hibernate::run(&session()?, &args).await;
    Wake(wake::Args) json => wake::run(&session()?, &args).await;
    #[command(visible_alias = "ask")]
    Message(message::Args) json => message::run(&session()?, args).await;
    #[command(visible_alias = "edit")]
    Set(Box<set::Args>) json => set::run(&session()?, *args).await;
    Restart(restart::Args) json => restart::run(&session()?, &args).await;
    Recreate(recreate::Args) json => recreate::run(&session()?, &args).await;
    #[command(visible_aliases = ["remove", "delete"])]
    Rm(rm::Args) json => rm::run(&session()?, &args).await;
    Undelete(undelete::Args) json => undelete::run(&session()?, args).await;
    Trash(trash::Args) json => trash::run(&session()?, args).await;
    Adopt(adopt::Args) json => adopt::run(&session()?, args).await;
    #[command(visible_alias = "tokens")]
    Token(token::Args) json => token::run(&session()?, args).await;
    #[command(visible_alias = "sweeps")]
    Sweep(sweep::Args) json => sweep::run(&session()?, args).await;
    #[command(visible_alias = "ops")]
    Operations(operations::Args) json => operations::run(&session()?, args).await;
    Events(events::Args) json => events::run(&session()?, &args).await;
    Why(why::Args) json => why::run(&session()?, &args).await;
    Doctor(doctor::Args) json => doctor::run(&session()?, &args).await;
    Config(config::Args) json => config::run(out, host, &args).await;
    Reload(reload::Args) json => reload::run(&session()?, &args).await;
    Completions(completions::Args) own_format => completions::run(out, &args);
    Man(man::Args) own_format => man::run(out, &args);
}
