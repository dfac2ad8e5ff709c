//! `kodo-broker dev`: everything on one machine, with no set-up. A simulated Entra, a throw-away CA, a
//! broker over a sled store, a registered organization and its tokens; it stays up until Ctrl-C.
//!
//! What it shows is done by the real command line over mutual TLS: each line that begins with `$` can
//! be repeated by hand.

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser as _;
use uuid::{Uuid, uuid};

use crate::{
    app::{self, Broker},
    cli::{self, Cli, Command, Console},
    clock::Clock,
    config::Config,
    lockdown::{Guards, Lockdown},
    simulator::{
        self, Simulator,
        certificate::{Certificate, InvalidCertificate},
        directory::{Application, Tenant},
    },
    telemetry,
};

mod folder;

use folder::Folder;

/// The organization that `dev` registers, with a certificate.
const CONTOSO_TENANT: Uuid = uuid!("c0a70500-0000-4000-8000-000000000001");
const CONTOSO_CLIENT: Uuid = uuid!("c0a70500-0000-4000-8000-00000000000a");
/// The one that is left to register by hand, with a client secret.
const FABRIKAM_TENANT: Uuid = uuid!("fab41ca0-0000-4000-8000-000000000001");
const FABRIKAM_CLIENT: Uuid = uuid!("fab41ca0-0000-4000-8000-00000000000a");

/// Why `dev` does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address that others could reach.
    #[error(
        "{0} is no loopback address; `dev` has throw-away keys and serves this machine only, use `serve` for others"
    )]
    NotLoopback(SocketAddr),
    /// A file of its folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The application's certificate, of an earlier start, is damaged.
    #[error(transparent)]
    ApplicationCertificate(#[from] InvalidCertificate),
    /// There are no random bytes.
    #[error("the system gives no random bytes")]
    NoRandom,
    /// The simulator.
    #[error(transparent)]
    Simulator(#[from] simulator::Error),
    /// The broker.
    #[error(transparent)]
    Broker(#[from] app::Error),
    /// A line of the demonstration that the command line does not understand: a defect.
    #[error("no such command: {0}")]
    Step(String),
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What runs.
struct Running {
    broker: Broker,
    simulator: Simulator,
    folder: Folder,
}

/// Runs `dev` until Ctrl-C. Without `data_dir` everything is deleted at the end.
pub fn command(listen: SocketAddr, data_dir: Option<&Path>, console: &mut Console<'_>) -> ExitCode {
    match run(listen, data_dir, console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed; the exit code says it too.
            let _ = writeln!(console.err, "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    listen: SocketAddr,
    data_dir: Option<&Path>,
    console: &mut Console<'_>,
) -> Result<(), Error> {
    if !listen.ip().is_loopback() {
        return Err(Error::NotLoopback(listen));
    }
    let lockdown = Lockdown::put_up(Guards::Wanted).map_err(app::Error::from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // Listened for before there is anything to clean up.
    let mut signals = runtime.block_on(async { app::Signals::listen() })?;
    let stop = runtime.spawn(async move { signals.next().await });
    // Deleted when dropped.
    let temporary;
    let folder = match data_dir {
        Some(folder) => folder,
        None => {
            temporary = tempfile::Builder::new()
                .prefix("kodo-broker-dev-")
                .tempdir()?;
            temporary.path()
        }
    };
    // Absolute, since what is printed is typed in another terminal.
    let folder = Folder(std::path::absolute(folder)?);
    fs::create_dir_all(&folder.0).map_err(|source| Error::File {
        path: folder.0.clone(),
        source,
    })?;
    let running = runtime.block_on(start(listen, folder, &lockdown))?;
    demonstrate(&running, console)?;
    say_how_to_go_on(&running, console)?;
    runtime.block_on(async {
        stop.await.map_err(io::Error::from)?;
        running.broker.stop().await?;
        running.simulator.shutdown().await;
        Ok(())
    })
}

async fn start(listen: SocketAddr, folder: Folder, lockdown: &Lockdown) -> Result<Running, Error> {
    let identity = folder.make_identities()?;
    folder.make_kek()?;
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let simulator = Simulator::start(any_port, &identity).await?;
    populate(&simulator, &folder)?;
    let file =
        folder.write_configuration(listen, &simulator.authority_url(), &simulator.graph_url())?;
    let config = Config::load(&file).map_err(app::Error::from)?;
    telemetry::init(&config.log).map_err(app::Error::from)?;
    lockdown.tell();
    let mut broker = Broker::start(&config, Clock::system()).await?;
    // Somebody waits for it at a terminal: what keeps it sealed ends it.
    if let Some(sealed) = broker.sealed.take() {
        return Err(sealed.into());
    }
    folder.write_connections(&broker.address)?;
    Ok(Running {
        broker,
        simulator,
        folder,
    })
}

/// Two tenants, each with an application.
fn populate(simulator: &Simulator, folder: &Folder) -> Result<(), Error> {
    let certificate = Certificate::from_pem(&folder.make_application()?)?;
    let mut contoso = Tenant::new(CONTOSO_TENANT, "contoso");
    contoso.add_application(Application::new(CONTOSO_CLIENT).with_certificate(certificate));
    simulator.directory().add_tenant(contoso);
    let mut fabrikam = Tenant::new(FABRIKAM_TENANT, "fabrikam");
    fabrikam.add_application(Application::new(FABRIKAM_CLIENT).with_secret(&folder.make_secret()?));
    simulator.directory().add_tenant(fabrikam);
    Ok(())
}

/// Registers contoso and gets its tokens.
fn demonstrate(running: &Running, console: &mut Console<'_>) -> Result<(), Error> {
    let path = |name| running.folder.path(name).display().to_string();
    let (admin, worker, pem) = (path("admin.toml"), path("worker.toml"), path("contoso.pem"));
    let client_id = CONTOSO_CLIENT.to_string();
    let mut register = vec!["--connection", &admin, "org", "register", "contoso"];
    register.extend(["--tenant", "contoso.onmicrosoft.com", "--cloud", "global"]);
    register.extend(["--client-id", &client_id, "--pem-file", &pem]);
    // The same request id each time: with a kept folder this is answered again, not done again.
    register.extend(["--request-id", "dev-contoso"]);
    step(console, &register)?;
    for resource in ["graph", "exchange", "sharepoint"] {
        let get = ["--connection", &worker, "token", "get", "contoso", resource];
        step(console, &get)?;
    }
    Ok(())
}

/// Runs one command line as if it had been typed.
fn step(console: &mut Console<'_>, words: &[&str]) -> Result<(), Error> {
    let quoted: Vec<_> = words.iter().map(|word| folder::quoted(word)).collect();
    let line = quoted.join(" ");
    writeln!(console.out, "$ {} {line}", program())?;
    let parsed = Cli::try_parse_from(["kodo-broker"].iter().chain(words));
    match parsed.map(|cli| (cli.options, cli.command)) {
        // What fails says so on the console, and is as worth seeing.
        Ok((options, Command::Remote(command))) => cli::run(&options, command, console),
        Ok(_) => return Err(Error::Step(line)),
        Err(error) => return Err(Error::Step(error.to_string())),
    };
    writeln!(console.out)?;
    Ok(())
}

fn say_how_to_go_on(running: &Running, console: &mut Console<'_>) -> Result<(), Error> {
    let folder = &running.folder;
    let program = program();
    let admin = format!("{program} --connection {}", folder.shown("admin.toml"));
    let worker = format!("{program} --connection {}", folder.shown("worker.toml"));
    let secret = folder.shown("fabrikam.secret");
    let address = &running.broker.address;
    let (ca, crt, key) = (
        folder.shown("ca.pem"),
        folder.shown("worker.crt"),
        folder.shown("worker.key"),
    );
    write!(
        console.out,
        "The broker serves https://{address} and stays up until Ctrl-C. Go on in another terminal:

# Register a second organization, with a client secret, and see what it gets and what not.
{admin} org register fabrikam --tenant {FABRIKAM_TENANT} --cloud global --client-id {FABRIKAM_CLIENT} --secret-file {secret}
{worker} token get fabrikam graph
{worker} token get fabrikam sharepoint

# Look at what is registered; revoke.
{admin} org list
{admin} org revoke fabrikam --yes
{worker} token get fabrikam graph

# The same call from any gRPC client.
grpcurl -cacert {ca} -cert {crt} -key {key} -d '{{\"organization_id\": \"contoso\", \"resource\": \"RESOURCE_GRAPH\"}}' {address} kodo.broker.v1.TokenService/GetToken
"
    )?;
    console.out.flush()?;
    Ok(())
}

/// The program as it was called, as a shell takes it.
fn program() -> String {
    let program = env::args().next();
    folder::quoted(program.as_deref().unwrap_or("kodo-broker"))
}
