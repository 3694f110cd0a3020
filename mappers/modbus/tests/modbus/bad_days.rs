//! A Modbus TCP server that answers what a test tells it to.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A request: transaction, unit, and what follows the unit.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    transaction: [u8; 2],
    unit: u8,
    pdu: Vec<u8>,
}

impl Asked {
    fn frame(&self, unit: u8, pdu: &[u8]) -> Vec<u8> {
        let length = u16::try_from(pdu.len() + 1).unwrap().to_be_bytes();
        [&self.transaction[..], &[0, 0], &length, &[unit], pdu].concat()
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.pdu[at], self.pdu[at + 1]])
    }

    /// Registers that have their address as value; `self` is a read of them.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let words = (self.word(1)..self.word(1) + self.word(3)).flat_map(u16::to_be_bytes);
        let data: Vec<u8> = words.collect();
        let pdu = [&[self.pdu[0], u8::try_from(data.len()).unwrap()], data.as_slice()].concat();
        self.frame(self.unit, &pdu)
    }

    fn exception(&self, code: u8) -> Vec<u8> {
        self.frame(self.unit, &[self.pdu[0] | 0x80, code])
    }
}

/// What the server saw.
pub(crate) type Log = Arc<Mutex<Vec<Asked>>>;

/// Serves connections one after another; `None` ends one.
pub(crate) async fn server(answer: impl Fn(&Asked) -> Option<Vec<u8>> + Send + 'static) -> (Json, Log) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let log = Log::default();
    let asked = Arc::clone(&log);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Some(request) = request(&mut stream).await {
                asked.lock().unwrap().push(request.clone());
                let Some(bytes) = answer(&request) else { break };
                if stream.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        }
    });
    (json!({ "ip": "127.0.0.1", "port": port, "slaveID": 3, "timeout": 200 }), log)
}

async fn request(stream: &mut TcpStream) -> Option<Asked> {
    let mut header = [0; 7];
    stream.read_exact(&mut header).await.ok()?;
    let mut pdu = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]])) - 1];
    stream.read_exact(&mut pdu).await.ok()?;
    Some(Asked { transaction: [header[0], header[1]], unit: header[6], pdu })
}

fn with(mut protocol: Json, key: &str, value: Json) -> Json {
    protocol[key] = value;
    protocol
}

#[tokio::test]
async fn five_hundred_registers_are_asked_for_in_four_requests() {
    let (protocol, log) = server(|asked| Some(asked.answer())).await;
    let mut line = Line::open(&registers(protocol, &holding(0..500))).await.unwrap();
    assert_eq!(line.values().await, (0..500_i64).map(Value::from).collect::<Vec<_>>());
    let asked: Vec<_> = log.lock().unwrap().iter().map(|asked| (asked.pdu[0], asked.word(1), asked.word(3))).collect();
    assert_eq!(asked, [(3, 0, 125), (3, 125, 125), (3, 250, 125), (3, 375, 125)]);
}

#[tokio::test]
async fn requests_are_under_way_together_where_the_device_can() {
    // Answers only when four have come, the last one first.
    let waiting = Mutex::new(Vec::new());
    let answer = move |asked: &Asked| {
        let mut waiting = waiting.lock().unwrap();
        waiting.push(asked.answer());
        let all = if waiting.len() == 4 { waiting.drain(..).rev().flatten().collect() } else { Vec::new() };
        Some(all)
    };
    let (protocol, _) = server(answer).await;
    let protocol = with(protocol, "pipeline", 4.into());
    let mut line = Line::open(&registers(protocol, &holding(0..500))).await.unwrap();
    assert_eq!(line.values().await, (0..500_i64).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn anothers_data_and_answers_that_are_none_are_refused() {
    type Answer = fn(&Asked) -> Vec<u8>;
    let table: [(Answer, &str); 5] = [
        (|asked| asked.frame(4, &[3, 2, 0, 7]), "unit 4 answered for unit 3"),
        (|asked| asked.frame(3, &[4, 2, 0, 7]), "the answer is of function 4, and 3 was asked"),
        (|asked| asked.frame(3, &[3, 4, 0, 7, 0, 8]), "2 bytes were asked, 4 announced"),
        (|asked| asked.frame(3, &[3, 2, 0]), "2 bytes were asked"),
        // An answer to no question, then nothing.
        (|asked| [&[9, 9], &asked.frame(3, &[3, 2, 0, 7])[2..]].concat(), "nothing came within 200 ms"),
    ];
    for (answer, expected) in table {
        let (protocol, _) = server(move |asked| Some(answer(asked))).await;
        let mut line = Line::open(&registers(protocol, &holding(0..1))).await.unwrap();
        let fault = line.read().await.unwrap_err();
        assert!(matches!(&fault, Fault::Silent(words) if words.contains(expected)), "{fault}");
    }
}

#[tokio::test]
async fn a_late_answer_is_not_the_answer_to_the_next_question() {
    // The first answer comes with the second one.
    let late = Mutex::new(None::<Vec<u8>>);
    let answer = move |asked: &Asked| {
        let mut late = late.lock().unwrap();
        match late.take() {
            None if asked.word(1) == 0 => {
                *late = Some(asked.frame(3, &[3, 2, 0xDE, 0xAD]));
                Some(Vec::new())
            }
            None => Some(asked.answer()),
            Some(first) => Some([first, asked.answer()].concat()),
        }
    };
    let (protocol, _) = server(answer).await;
    let mut line = Line::open(&registers(protocol, &[holding(0..1), holding(40..41)].concat())).await.unwrap();
    let point = |at: usize| [line.device.points.get(at).unwrap()];
    let (first, second) = (point(0), point(1));
    assert!(line.connection.read(&line.device, &first).await.is_err());
    let sample = line.connection.read(&line.device, &second).await.unwrap();
    assert_eq!(sample[0].value, Some(Value::Int(40)));
}

#[tokio::test]
async fn what_is_not_modbus_ends_the_connection() {
    for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0, 1, 0, 0, 0xFF, 0xFF, 3, 3], &[0, 1, 0, 0, 0, 1, 3]] {
        let (protocol, _) = server(move |_| Some(garbage.to_vec())).await;
        let mut line = Line::open(&registers(protocol, &holding(0..1))).await.unwrap();
        let fault = line.read().await.unwrap_err();
        assert!(matches!(&fault, Fault::Lost(words) if words.contains("is not Modbus TCP")), "{fault}");
    }
}

#[tokio::test]
async fn exceptions_are_told_in_words() {
    let table = [(1, "illegal function"), (2, "illegal data address"), (4, "server device failure"), (6, "busy")];
    for (code, expected) in table {
        let (protocol, _) = server(move |asked| Some(asked.exception(code))).await;
        let mut line = Line::open(&registers(protocol, &holding(0..1))).await.unwrap();
        let samples = line.read().await.unwrap();
        assert_eq!(good(&samples), [false]);
        assert!(samples[0].problem.contains(expected), "{}", samples[0].problem);
        let refused = line.write("r0", 1_i64).await.unwrap_err();
        assert!(matches!(&refused, Fault::Refused(words) if words.contains(expected)), "{refused}");
    }
    // A gateway says that the device behind it is not there.
    let (protocol, _) = server(|asked| Some(asked.exception(11))).await;
    let mut line = Line::open(&registers(protocol, &holding(0..1))).await.unwrap();
    assert!(matches!(line.read().await, Err(Fault::Silent(words)) if words.contains("gateway")));
}

#[tokio::test]
async fn a_device_without_any_of_its_registers_is_not_flooded() {
    let (protocol, log) = server(|asked| Some(asked.exception(2))).await;
    let mut line = Line::open(&registers(protocol, &holding(0..500))).await.unwrap();
    let samples = line.read().await.unwrap();
    assert_eq!(good(&samples), [false; 500]);
    let asked = log.lock().unwrap().len();
    assert!(asked <= 4 + 2 * 32, "4 and two for each split, {asked}");
}

#[tokio::test]
async fn the_functions_of_writes_are_those_that_the_device_knows() {
    let echo = |asked: &Asked| Some(asked.frame(3, &asked.pdu[..5]));
    let properties = [
        ("one", DataType::Int, json!({ "register": "Holding", "offset": 1 })),
        ("two", DataType::Int, json!({ "register": "Holding", "offset": 2, "dataType": "uint32" })),
        ("coil", DataType::Boolean, json!({ "register": "Coil", "offset": 3 })),
        ("coils", DataType::Int, json!({ "register": "Coil", "offset": 4, "limit": 2 })),
    ];
    for (function, expected) in [("auto", [6, 16, 5, 15]), ("multiple", [16, 16, 15, 15])] {
        let (protocol, log) = server(echo).await;
        let protocol = with(protocol, "writeFunction", function.into());
        let mut line = Line::open(&definition(protocol, &properties)).await.unwrap();
        for name in ["one", "two", "coils"] {
            line.write(name, 1_i64).await.unwrap();
        }
        line.write("coil", true).await.unwrap();
        let mut functions: Vec<u8> = log.lock().unwrap().iter().map(|asked| asked.pdu[0]).collect();
        functions.swap(2, 3);
        assert_eq!(functions, expected);
        let refused = line.write("one", 70_000_i64).await.unwrap_err();
        assert!(matches!(&refused, Fault::Refused(words) if words.contains("does not fit")), "{refused}");
        assert_eq!(log.lock().unwrap().len(), 4, "what does not fit is not sent");
    }
}

#[tokio::test]
async fn some_answers_and_then_silence_keep_what_was_answered() {
    let (protocol, log) = server(|asked| Some(if asked.word(1) < 250 { asked.answer() } else { Vec::new() })).await;
    let mut line = Line::open(&registers(protocol, &holding(0..500))).await.unwrap();
    let begun = Instant::now();
    let samples = line.read().await.unwrap();
    assert_eq!(samples.iter().filter(|sample| sample.quality == Quality::Good).count(), 250);
    assert_eq!(log.lock().unwrap().len(), 3, "nothing is asked after a silence");
    assert!(begun.elapsed() < Duration::from_secs(1), "one timeout, not one for each request");
}

#[tokio::test]
async fn a_read_is_tried_again_as_often_as_the_device_says() {
    let first = Mutex::new(true);
    let answer = move |asked: &Asked| {
        let first = std::mem::take(&mut *first.lock().unwrap());
        Some(if first { Vec::new() } else { asked.answer() })
    };
    let (protocol, log) = server(answer).await;
    let protocol = with(protocol, "collectRetryTimes", 1.into());
    let mut line = Line::open(&registers(protocol, &holding(5..6))).await.unwrap();
    assert_eq!(line.values().await, [Value::Int(5)]);
    assert_eq!(log.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_closed_connection_and_a_program_that_hangs_are_lost_lines() {
    let (protocol, _) = server(|_| None).await;
    let mut line = Line::open(&registers(protocol, &holding(0..1))).await.unwrap();
    let fault = line.read().await.unwrap_err();
    assert!(matches!(&fault, Fault::Lost(words) if words.contains("closed the connection")), "{fault}");

    let (protocol, _) = server(|_| Some(Vec::new())).await;
    let mut line = Line::open(&registers(protocol, &holding(0..1))).await.unwrap();
    let faults = [line.read().await, line.read().await, line.read().await].map(Result::unwrap_err);
    assert!(matches!(faults, [Fault::Silent(_), Fault::Silent(_), Fault::Lost(_)]), "{faults:?}");

    let gone = json!({ "ip": "127.0.0.1", "port": 1, "slaveID": 3 });
    let fault = Line::open(&registers(gone, &holding(0..1))).await.err().unwrap();
    assert!(matches!(&fault, Fault::Lost(words) if words.contains("cannot connect")), "{fault}");
}

#[tokio::test]
async fn a_device_that_cannot_be_served_says_which_property_and_why() {
    let bad = json!({ "register": "Holding", "offset": 1, "dataType": "float32", "limit": 1 });
    let wrong = definition(json!({ "ip": "127.0.0.1" }), &[("t", DataType::Float, bad)]);
    let fault = Line::open(&wrong).await.err().unwrap();
    assert!(matches!(&fault, Fault::Config(words) if words.starts_with("property t: visitors.configData: `limit`: 1")));
    let unknown = definition(json!({ "ip": "127.0.0.1", "prot": 1 }), &[]);
    let fault = Line::open(&unknown).await.err().unwrap();
    assert!(matches!(&fault, Fault::Config(words) if words.contains("protocol.configData: unknown key `prot`")));
}
