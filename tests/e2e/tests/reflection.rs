//! Every gRPC server can be listed and called by a client that has no generated code.
//!
//! The client is Python's gRPC with its reflection package (`scripts/install-tools test` installs it
//! below `target/python`); what it knows, it learned from the server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use jiff::Timestamp;
use serde_json::Value;
use skerry_e2e::System;
use skerry_identity::Ca;

const PORT: u16 = 21_500;
const LIFE: Duration = Duration::from_secs(600);
/// On every server.
const COMMON: [&str; 2] = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];

fn client(arguments: &[&str]) -> Value {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../../target/python/bin/python");
    assert!(python.exists(), "scripts/install-tools test installs {}", python.display());
    let output = Command::new(python).arg(here.join("reflection.py")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks what a server told: exactly these services, and each method exists for the caller or is
/// refused to it by name.
fn check(server: &str, found: &Value, own: &[&str], open: &[&str]) {
    let listed: BTreeSet<&str> = found.as_object().unwrap().keys().map(String::as_str).collect();
    for service in own.iter().chain(&COMMON) {
        assert!(listed.contains(service), "{server} does not list {service}: {listed:?}");
    }
    for service in &listed {
        let known =
            own.contains(service) || COMMON.contains(service) || *service == "grpc.reflection.v1alpha.ServerReflection";
        assert!(known, "{server} lists {service}");
    }
    for (service, methods) in found.as_object().unwrap() {
        let methods = methods.as_object().unwrap();
        assert!(!methods.is_empty(), "{service} has no methods");
        for (method, code) in methods {
            let code = code.as_str().unwrap();
            let broken = ["UNIMPLEMENTED", "UNAVAILABLE", "INTERNAL", "UNKNOWN"].contains(&code);
            assert!(!broken, "{server}: {service}/{method}: {code}");
            let denied = code == "PERMISSION_DENIED";
            let is_open = open.contains(&service.as_str()) || COMMON.contains(&service.as_str());
            assert!(!(denied && is_open), "{server}: {service}/{method} is refused");
        }
    }
}

#[test]
fn every_server_explains_itself() {
    let system = System::up(PORT, &[]).unwrap();
    let secret = system.kubectl(&["get", "secret", "-n", "skerry-system", "skerry-ca"]).unwrap();
    let field = |name: &str| {
        let text = secret["data"][name].as_str().unwrap();
        String::from_utf8(base64::prelude::BASE64_STANDARD.decode(text).unwrap()).unwrap()
    };
    let ca = Ca::from_pem(&field("ca.crt"), &field("ca.key")).unwrap();
    let folder = system.dir().with_file_name("certificates");
    fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    fs::write(path("ca.pem"), ca.certificate_pem()).unwrap();
    for caller in ["admin", "cloudhub"] {
        let credentials = ca.service_credentials(caller, &[], LIFE, Timestamp::now()).unwrap();
        fs::write(path(&format!("{caller}.pem")), credentials.chain_pem()).unwrap();
        fs::write(path(&format!("{caller}.key")), credentials.key_pem()).unwrap();
    }
    let as_caller = |port: u16, server: &str, caller: &str| {
        let (chain, key) = (path(&format!("{caller}.pem")), path(&format!("{caller}.key")));
        client(&[&format!("127.0.0.1:{port}"), &format!("{server}.skerry"), &path("ca.pem"), &chain, &key])
    };

    let sync = ["skerry.sync.v1.Source", "skerry.sync.v1.Sink"];
    let reviews = "skerry.review.v1.Reviews";
    let hub = ["skerry.hub.v1.Hub", "skerry.identity.v1.Identity", reviews, sync[0], sync[1]];
    check("cloudhub", &as_caller(PORT, "cloudhub", "admin"), &hub, &["skerry.hub.v1.Hub"]);

    let controller = ["skerry.hub.v1.Registry", "skerry.identity.v1.Issuer", reviews, sync[0], sync[1]];
    check("edgecontroller", &as_caller(PORT + 2, "edgecontroller", "cloudhub"), &controller, &sync);

    check("devicecontroller", &as_caller(PORT + 10, "devicecontroller", "cloudhub"), &sync, &sync);

    let socket = format!("unix:{}/edge/edgehub.sock", system.dir().display());
    let edge = ["skerry.edge.v1.Edge", reviews, sync[0], sync[1]];
    check("edgehub", &client(&[&socket]), &edge, &edge);

    let socket = format!("unix:{}/edge/dmi.sock", system.dir().display());
    let devices = ["skerry.dmi.v1.Devices", "skerry.dmi.v1.Mappers", "v1beta1.DeviceManagerService"];
    // A report of a device that is not there is refused to every caller.
    check("dmi", &client(&[&socket]), &devices, &devices[..2]);
    system.down().unwrap();
}
