//! pymodbus as the device (`scripts/install-tools test` installs it below `target/python`).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::pty::openpty;
use nix::unistd::ttyname;

use super::*;

/// A process that ends with the test.
pub(crate) struct Ended(pub(crate) Child);

/// A pymodbus server.
pub(crate) struct Peer {
    _child: Ended,
    pub(crate) port: u16,
}

fn python() -> Command {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../../target/python/bin/python");
    assert!(python.exists(), "scripts/install-tools test installs {}", python.display());
    let mut command = Command::new(python);
    command.arg(here.join("tests/modbus/peer.py"));
    command
}

impl Peer {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = python().args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let answer: Json = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let port = u16::try_from(answer["port"].as_u64().unwrap()).unwrap();
        Self { _child: Ended(child), port }
    }

    fn tcp(&self, unit: u8) -> Json {
        json!({ "communicateMode": "TCP", "ip": "127.0.0.1", "port": self.port, "slaveID": unit })
    }

    /// Registers as pymodbus' own client reads them.
    fn get(&self, unit: u8, address: u16, count: u16) -> Vec<u16> {
        let numbers = [u32::from(self.port), unit.into(), address.into(), count.into()].map(|n| n.to_string());
        let output = python().arg("get").args(numbers).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One of each kind, with the value that peer.py has there.
fn all_kinds() -> Vec<(&'static str, DataType, Json, Value)> {
    let holding = |offset: u16, data_type: &str| json!({ "register": "HoldingRegister", "offset": offset, "dataType": data_type });
    vec![
        ("coil", DataType::Boolean, json!({ "register": "CoilRegister", "offset": 3, "limit": 1 }), true.into()),
        ("coils", DataType::Int, json!({ "register": "Coil", "offset": 1, "limit": 9 }), 0b1_0010_0100_i64.into()),
        ("discrete", DataType::Boolean, json!({ "register": "DiscreteInputRegister", "offset": 31 }), false.into()),
        ("input", DataType::Int, json!({ "register": "InputRegister", "offset": 9 }), 1009_i64.into()),
        ("holding", DataType::Int, json!({ "register": "HoldingRegister", "offset": 499, "limit": 1 }), 499_i64.into()),
        (
            "scaled",
            DataType::Float,
            json!({ "register": "Holding", "offset": 253, "limit": 1, "scale": 0.1 }),
            25.3.into(),
        ),
        ("f32", DataType::Float, holding(600, "float32"), 21.3.into()),
        ("i32", DataType::Int, holding(602, "int32"), (-70_000_i64).into()),
        ("f64", DataType::Double, holding(604, "float64"), 0.1.into()),
        ("u64", DataType::Int, holding(608, "uint64"), ((1_u64 << 63) + 1).into()),
        ("text", DataType::String, json!({ "register": "Holding", "offset": 612, "limit": 3 }), "skerry".into()),
        ("bit", DataType::Boolean, json!({ "register": "Holding", "offset": 615, "bit": 7 }), true.into()),
        (
            "bits",
            DataType::Int,
            json!({ "register": "Holding", "offset": 615, "bit": 4, "bitCount": 4 }),
            0b1010_i64.into(),
        ),
    ]
}

async fn reads_and_writes_all_kinds(protocol: Json, scale_of_inputs: i64) {
    let kinds = all_kinds();
    let properties: Vec<_> = kinds.iter().map(|(name, kind, visitor, _)| (*name, *kind, visitor.clone())).collect();
    let mut line = Line::open(&definition(protocol, &properties)).await.unwrap();
    let mut expected: Vec<Value> = kinds.into_iter().map(|(.., value)| value).collect();
    expected[3] = (scale_of_inputs + 9).into();
    assert_eq!(line.values().await, expected);
    let writes: Vec<(&str, Value)> = vec![
        ("coil", false.into()),
        ("coils", 0b0_1111_0100_i64.into()),
        ("holding", 65_535_i64.into()),
        ("scaled", 30.5.into()),
        ("f32", (-1.5).into()),
        ("i32", i64::from(i32::MIN).into()),
        ("f64", 1e300.into()),
        ("u64", u64::MAX.into()),
        ("text", "edge".into()),
        ("bit", false.into()),
        ("bits", 0b0101_i64.into()),
    ];
    for (name, value) in &writes {
        line.write(name, value.clone()).await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
    let values = line.values().await;
    for (name, value) in writes {
        let at = line.device.points.iter().position(|point| point.name() == name).unwrap();
        match name {
            // Other properties in the same registers were written after them.
            "coil" => assert_eq!(values[at], true.into()),
            "bit" => assert_eq!(values[at], false.into()),
            _ => assert_eq!(values[at], value, "{name}"),
        }
    }
    for name in ["discrete", "input"] {
        let refused = line.write(name, 1_i64).await;
        assert!(matches!(&refused, Err(Fault::Refused(words)) if words.contains("read only")), "{refused:?}");
    }
    line.connection.check(&line.device).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_register_over_tcp() {
    let peer = Peer::start(&["tcp"]);
    reads_and_writes_all_kinds(peer.tcp(1), 1000).await;
    // As another client sees it: the bits beside ours are as they were.
    assert_eq!(peer.get(1, 600, 4), [0xBFC0, 0, 0x8000, 0]);
    assert_eq!(peer.get(1, 612, 4), [0x6564, 0x6765, 0, 0b0101_0000]);
    assert_eq!(peer.get(1, 253, 1), [305]);
    assert_eq!(peer.get(2, 253, 1), [253], "the other unit was not touched");
}

#[tokio::test]
async fn every_kind_of_register_over_rtu() {
    let wire = Wire::new();
    let _peer = Peer::start(&["rtu", wire.ends[0].to_str().unwrap()]);
    let protocol = json!({
        "communicateMode": "RTU", "serialName": wire.ends[1].to_str().unwrap(), "slaveID": 2, "baudRate": 115_200,
        "dataBits": 8, "stopBits": 1, "parity": "None"
    });
    reads_and_writes_all_kinds(protocol, 2000).await;
}

#[tokio::test]
async fn a_register_that_is_not_there_takes_down_nothing_else() {
    let peer = Peer::start(&["tcp"]);
    let mut line = Line::open(&registers(peer.tcp(1), &holding(480..620))).await.unwrap();
    // A hundred missing in a row are more than one read may look for.
    let there = |address: u16| address < 500 || (600..617).contains(&address);
    let mut rounds = Vec::new();
    for _ in 0..8 {
        let samples = line.read().await.unwrap();
        for (sample, address) in samples.iter().zip(480..).filter(|(_, address)| !there(*address)) {
            let known = sample.problem.contains("illegal data address") || sample.problem.contains("not asked yet");
            assert!(sample.quality == Quality::Bad && known, "{address}: {sample:?}");
        }
        rounds.push(samples.iter().filter(|sample| sample.quality == Quality::Good).count());
    }
    assert_eq!(rounds.last(), Some(&37), "{rounds:?}");
}

#[tokio::test]
async fn a_unit_that_is_not_on_the_line_is_silent_and_the_others_go_on() {
    let wire = Wire::new();
    let _peer = Peer::start(&["rtu", wire.ends[0].to_str().unwrap()]);
    let protocol = |unit: u8| json!({ "serialPort": wire.ends[1].to_str().unwrap(), "baudRate": 115_200, "slaveID": unit, "timeout": 200 });
    let mut line = Line::open(&registers(protocol(2), &holding(0..10))).await.unwrap();
    let dead = Device::<Modbus>::new(&registers(protocol(9), &holding(0..10))).unwrap();
    for _ in 0..3 {
        let points: Vec<_> = dead.points.iter().collect();
        let silent = line.connection.read(&dead, &points).await;
        assert!(matches!(silent, Err(Fault::Silent(_))), "{silent:?}");
        assert_eq!(line.values().await, (0..10_i64).map(Value::from).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn devices_of_one_port_must_agree_on_its_settings() {
    let wire = Wire::new();
    let protocol = |baud: u32| json!({ "serialPort": wire.ends[1].to_str().unwrap(), "baudRate": baud, "slaveID": 1 });
    let mut line = Line::open(&registers(protocol(9600), &holding(0..1))).await.unwrap();
    line.device = Device::new(&registers(protocol(19_200), &holding(0..1))).unwrap();
    let refused = line.read().await;
    assert!(matches!(&refused, Err(Fault::Config(words)) if words.contains("baudRate")), "{refused:?}");
}

/// Two terminals whose ends are connected, as a serial line is. The threads end with the terminals.
struct Wire {
    ends: [PathBuf; 2],
    _terminals: [OwnedFd; 2],
}

impl Wire {
    fn new() -> Self {
        let (a, b) = (openpty(None, None).unwrap(), openpty(None, None).unwrap());
        let ends = [ttyname(&a.slave).unwrap(), ttyname(&b.slave).unwrap()];
        let (a_master, b_master) = (File::from(a.master), File::from(b.master));
        relay(a_master.try_clone().unwrap(), b_master.try_clone().unwrap());
        relay(b_master, a_master);
        Self { ends, _terminals: [a.slave, b.slave] }
    }
}

fn relay(mut from: File, mut to: File) {
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        while let Ok(count) = from.read(&mut bytes) {
            if count == 0 || to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
    });
}
