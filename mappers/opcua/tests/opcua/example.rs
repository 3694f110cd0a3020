//! examples/opcua: the Device is served by the simulator beside it, as the files say.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::peer::{Ended, python};

fn yaml(file: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/opcua").join(file);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The Device as the node hands it to the mapper, on another port.
fn boiler(url: &str) -> Definition {
    let (model, device) = (yaml("1-model.yaml"), yaml("2-device.yaml"));
    let mut protocol = device["spec"]["protocol"]["configData"].clone();
    protocol["url"] = url.into();
    let types = |name: &Json| {
        let properties = model["spec"]["properties"].as_array().unwrap();
        let property = properties.iter().find(|property| property["name"] == *name).unwrap();
        DataType::named(property["type"].as_str().unwrap()).unwrap()
    };
    let properties = device["spec"]["properties"].as_array().unwrap();
    properties.iter().fold(Definition::new("default", "boiler-2", protocol), |definition, property| {
        let name = property["name"].as_str().unwrap();
        definition.property(name, types(&property["name"]), property["visitors"]["configData"].clone())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_boiler_is_read_and_set() {
    let folder = tempfile::tempdir().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut simulator = Command::new(python());
    simulator.arg(here.join("examples/opcua/simulator.py")).args(["--port", "0"]);
    let mut simulator = Ended(simulator.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(simulator.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().rsplit(' ').next().unwrap();

    let mut line = Line::open(&OpcUa::new(folder.path()), &boiler(url)).await.unwrap();
    let values: Vec<_> = line.read().await.unwrap().into_iter().map(|sample| sample.value.unwrap()).collect();
    let value = |name: &str| {
        let at = line.device.points.iter().position(|point| point.name() == name).unwrap();
        values[at].clone()
    };
    assert_eq!((value("setpoint"), value("heater")), (40.0.into(), true.into()));
    assert_eq!(value("serial-number"), "SKERRY-BOILER-02".into());
    assert!(value("temperature").as_f64().unwrap() >= 20.0);
    line.write("setpoint", 55.5).await.unwrap();
    assert_eq!(line.read().await.unwrap()[1].value, Some(55.5.into()));
    let refused = line.write("serial-number", "another").await;
    assert!(matches!(&refused, Err(Fault::Refused(words)) if words.contains("Bad")), "{refused:?}");
}
