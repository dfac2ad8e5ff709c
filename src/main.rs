//! The command line of the broker: see `kodo-broker --help`.

use std::{io, process::ExitCode};

use clap::Parser as _;
use kodo_broker::cli::{self, Cli, Command, Console};
#[cfg(feature = "server")]
use kodo_broker::{
    app::{
        offline::{self, Task},
        policy,
    },
    cli::{OfflineCommand, Output, PolicyCommand, RemoteCommand, StoreCommand},
    lockdown::Guards,
};

/// Memory is wiped when it is freed. Our own types do so already; the buffers of HTTP/2, TLS, protobuf
/// and JSON that a secret goes through do not, and nothing else reaches them.
#[cfg(feature = "server")]
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> =
    zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> ExitCode {
    let Cli { options, command } = Cli::parse();
    match command {
        #[cfg(feature = "server")]
        Command::Serve {
            config,
            insecure_dev,
        } => {
            let guards = if insecure_dev {
                Guards::Wanted
            } else {
                Guards::Required
            };
            kodo_broker::app::serve_command(&config, guards)
        }
        #[cfg(feature = "server")]
        Command::Healthcheck { endpoint, service } => {
            kodo_broker::healthcheck::command(&endpoint, &service)
        }
        #[cfg(feature = "server")]
        Command::Remote(RemoteCommand::Store(StoreCommand::Offline(command))) => {
            let (config, task) = match command {
                OfflineCommand::Check { config } => (config, Task::Check),
                OfflineCommand::Restore { file, config } => (config, Task::Restore { file }),
                OfflineCommand::AcceptRollback { config, reason } => {
                    (config, Task::AcceptRollback { reason })
                }
            };
            offline::command(&config, &task, options.output == Output::Json)
        }
        #[cfg(feature = "server")]
        Command::Policy(command) => {
            let (file, trust_domain, task) = match command {
                PolicyCommand::Check { file, trust_domain } => {
                    (file, trust_domain, policy::Task::Check)
                }
                PolicyCommand::Test(asked) => (
                    asked.file,
                    asked.trust_domain,
                    policy::Task::Test(policy::CaseText {
                        caller: asked.caller,
                        action: asked.action,
                        organization: asked.organization,
                        labels: asked.labels,
                        resource: asked.resource,
                        purpose: asked.purpose,
                        job_runs: asked.job_runs,
                    }),
                ),
            };
            let json = options.output == Output::Json;
            policy::command(&file, trust_domain.as_deref(), &task, json)
        }
        #[cfg(feature = "simulator")]
        Command::Dev { listen, data_dir } => {
            // Not locked: the broker logs to standard error meanwhile.
            let mut console = Console {
                input: &mut io::stdin(),
                out: &mut io::stdout(),
                err: &mut io::stderr(),
            };
            kodo_broker::dev::command(listen, data_dir.as_deref(), &mut console)
        }
        Command::Remote(command) => {
            let mut console = Console {
                input: &mut io::stdin().lock(),
                out: &mut io::stdout().lock(),
                err: &mut io::stderr().lock(),
            };
            cli::run(&options, command, &mut console)
        }
    }
}
