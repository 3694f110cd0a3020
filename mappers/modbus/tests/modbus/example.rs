//! examples/modbus: the Device is served by the simulator beside it, as the files say.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::pymodbus::Ended;

fn yaml(file: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/modbus").join(file);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The Device as the node hands it to the mapper, on another port.
fn boiler(port: u16) -> Definition {
    let (model, device) = (yaml("1-model.yaml"), yaml("2-device.yaml"));
    let mut protocol = device["spec"]["protocol"]["configData"].clone();
    protocol["port"] = port.into();
    let types = |name: &Json| {
        let properties = model["spec"]["properties"].as_array().unwrap();
        let property = properties.iter().find(|property| property["name"] == *name).unwrap();
        DataType::named(property["type"].as_str().unwrap()).unwrap()
    };
    let properties = device["spec"]["properties"].as_array().unwrap();
    properties.iter().fold(Definition::new("default", "boiler-1", protocol), |definition, property| {
        let name = property["name"].as_str().unwrap();
        definition.property(name, types(&property["name"]), property["visitors"]["configData"].clone())
    })
}

#[tokio::test]
async fn the_boiler_is_read_and_set() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut simulator = Command::new(here.join("target/python/bin/python"));
    simulator.arg(here.join("examples/modbus/simulator.py")).args(["--port", "0"]);
    let mut simulator = Ended(simulator.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(simulator.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.trim().rsplit(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{line:?}"));

    let mut line = Line::open(&boiler(port)).await.unwrap();
    let values = line.values().await;
    let value = |name: &str| {
        let at = line.device.points.iter().position(|point| point.name() == name).unwrap();
        values[at].clone()
    };
    assert_eq!(value("setpoint"), 40.0.into());
    assert_eq!((value("heater"), value("heating")), (true.into(), true.into()));
    assert_eq!(value("serial-number"), "SKERRY-BOILER-01".into());
    assert!(value("temperature").as_f64().unwrap() >= 20.0);
    line.write("setpoint", 55.5).await.unwrap();
    assert_eq!(line.values().await[1], 55.5.into());
    let refused = line.write("setpoint", 95_i64).await;
    assert!(matches!(&refused, Err(Fault::Refused(words)) if words.contains("illegal data value")), "{refused:?}");
}
