//! MSAL for Python: Microsoft's own cache of tokens, in the process of its caller. It has no server:
//! what it costs is told beside the table.

use std::process::Command;

use serde_json::{Value, json};

use super::installed;
use crate::{
    Failure,
    site::{CLIENT_SECRET, Site},
    table::Table,
};

const TENANTS: usize = 1000;

pub(super) fn measure(site: &Site) -> Result<(), Failure> {
    let tenants: Vec<_> = (0..TENANTS)
        .map(|number| site.add_tenant(&format!("msal-{number}")))
        .map(|(tenant, client_id)| json!({"tenant": tenant.to_string(), "client_id": client_id.to_string()}))
        .collect();
    let about = json!({
        "authority": site.simulator.authority_url(),
        "client_secret": CLIENT_SECRET,
        "tenants": tenants,
    });
    site.write("msal.json", about.to_string())?;
    let output = Command::new(installed(".lab/peers/venv/bin/python")?)
        .arg(installed("benches/peers/msal_cache.py")?)
        .arg(site.path("msal.json"))
        // The library beneath MSAL heeds nothing else.
        .env("REQUESTS_CA_BUNDLE", site.path("ca.pem"))
        .output()?;
    if !output.status.success() {
        return Err(format!("MSAL: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let figure = |name: &str| format!("{:.1}", told[name].as_f64().unwrap_or(f64::NAN));
    let mut table = Table::new(["MSAL", "tenants", "CPU µs/cached call", "CPU µs/first call"]);
    table.row([
        told["version"].as_str().unwrap_or("unknown").to_owned(),
        TENANTS.to_string(),
        figure("cached_us"),
        figure("first_us"),
    ]);
    table.print("MSAL for Python, a call in its own process");
    Ok(())
}
