//! `dig`, as people use it; what it printed, taken apart.

use std::net::SocketAddr;

use tokio::process::Command;

/// What `dig` printed.
#[derive(Debug, Default)]
pub(crate) struct Dig {
    pub(crate) status: String,
    pub(crate) flags: Vec<String>,
    pub(crate) answers: Vec<String>,
    pub(crate) authority: Vec<String>,
    pub(crate) additional: Vec<String>,
    pub(crate) explanation: String,
    pub(crate) text: String,
}

/// Asks a server; the arguments are those of `dig`.
pub(crate) async fn dig(server: SocketAddr, arguments: &str) -> Dig {
    let output = Command::new("dig")
        .arg(format!("@{}", server.ip()))
        .args(["-p", &server.port().to_string(), "+tries=1", "+time=5"])
        .args(arguments.split_whitespace())
        .kill_on_drop(true)
        .output()
        .await
        .expect("dig is installed: scripts/install-tools test");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("Usage"), "{arguments}: {errors}");
    parse(&String::from_utf8(output.stdout).unwrap())
}

fn parse(text: &str) -> Dig {
    let mut dig = Dig { text: text.into(), ..Dig::default() };
    let mut section = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("status: ") {
            dig.status = rest.split(',').next().unwrap_or_default().into();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            let flags = rest.split(';').next().unwrap_or_default();
            dig.flags = flags.split_whitespace().map(Into::into).collect();
        } else if let Some(rest) = line.strip_prefix("; EDE: ") {
            dig.explanation = rest.into();
        } else if let Some(name) = line.strip_prefix(";; ").and_then(|rest| rest.strip_suffix(" SECTION:")) {
            section = name;
        } else if !line.is_empty() && !line.starts_with(';') {
            let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
            match section {
                "ANSWER" => dig.answers.push(line),
                "AUTHORITY" => dig.authority.push(line),
                _ => dig.additional.push(line),
            }
        }
    }
    dig
}
