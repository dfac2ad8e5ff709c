//! The command line of the broker: see `kodo-broker --help`.

use std::{io, process::ExitCode};

use clap::Parser as _;
use kodo_broker::cli::{self, Cli, Command, Console};
#[cfg(feature = "server")]
use kodo_broker::{
    app::{
        audit,
        offline::{self, Task},
        policy,
    },
    cli::{
        AuditCommand, HandOutView, OfflineAuditCommand, OfflineCommand, Options, Output,
        PolicyCommand, RemoteCommand, StoreCommand,
    },
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
        Command::Policy(command) => of_policy(&options, command),
        #[cfg(feature = "server")]
        Command::Remote(RemoteCommand::Audit(AuditCommand::Offline(command))) => {
            audit::command(&task(command), options.output == Output::Json)
        }
        #[cfg(feature = "server")]
        Command::Remote(RemoteCommand::Audit(AuditCommand::Trace { fingerprint, files }))
            if !files.is_empty() =>
        {
            show(&options, audit::trace(&files, &fingerprint))
        }
        #[cfg(feature = "server")]
        Command::Remote(RemoteCommand::Audit(AuditCommand::Exposure {
            organization,
            files,
        })) if !files.is_empty() => show(&options, audit::exposure(&files, &organization)),
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

#[cfg(feature = "server")]
fn of_policy(options: &Options, command: PolicyCommand) -> ExitCode {
    let (file, trust_domain, task) = match command {
        PolicyCommand::Check { file, trust_domain } => (file, trust_domain, policy::Task::Check),
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
                access: asked.access,
                job_runs: asked.job_runs,
            }),
        ),
    };
    let json = options.output == Output::Json;
    policy::command(&file, trust_domain.as_deref(), &task, json)
}

#[cfg(feature = "server")]
fn task(command: OfflineAuditCommand) -> audit::Task {
    match command {
        OfflineAuditCommand::Verify {
            files,
            anchor,
            key_file,
            public_key,
        } => audit::Task::Verify {
            files,
            anchor,
            key_file,
            public_keys: public_key,
        },
        OfflineAuditCommand::NewKey { file } => audit::Task::NewKey { file },
        OfflineAuditCommand::PublicKey { file } => audit::Task::PublicKey { file },
    }
}

#[cfg(feature = "server")]
fn show(options: &Options, hand_outs: io::Result<Vec<audit::HandOut>>) -> ExitCode {
    let mut console = Console {
        input: &mut io::stdin().lock(),
        out: &mut io::stdout().lock(),
        err: &mut io::stderr().lock(),
    };
    let shown = hand_outs.map(|found| found.into_iter().map(view).collect());
    cli::show_hand_outs(options, shown, &mut console)
}

#[cfg(feature = "server")]
fn view(hand_out: audit::HandOut) -> HandOutView {
    HandOutView {
        first_time: cli::time(hand_out.first_time),
        last_time: cli::time(hand_out.last_time),
        expire_time: cli::time(hand_out.expire_time),
        caller: hand_out.caller,
        organization_id: hand_out.organization_id,
        resource: hand_out.resource,
        sharepoint_host: hand_out.sharepoint_host,
        fingerprint: hand_out.fingerprint,
        credential_version: hand_out.credential_version,
        times: hand_out.times,
    }
}
