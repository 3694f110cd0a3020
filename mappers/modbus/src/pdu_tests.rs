//! Examples of the specification, and answers that are none.

use super::*;

#[test]
fn requests_are_as_the_specification_has_them() {
    let read = |kind| Request::Read(Span { kind, start: 0x006B, count: 3 });
    let table = [
        // The examples of the Modbus application protocol, V1.1b3.
        (read(Kind::Holding), "03006b0003"),
        (Request::Read(Span { kind: Kind::Coil, start: 0x13, count: 0x13 }), "0100130013"),
        (Request::Read(Span { kind: Kind::DiscreteInput, start: 0xC4, count: 0x16 }), "0200c40016"),
        (Request::Read(Span { kind: Kind::Input, start: 8, count: 1 }), "0400080001"),
        (Request::WriteCoil(0xAC, true), "0500acff00"),
        (Request::WriteRegister(1, 3), "0600010003"),
        (Request::WriteCoils(0x13, [1, 0, 1, 1, 0, 0, 1, 1, 1, 0].map(|bit| bit == 1).to_vec()), "0f0013000a02cd01"),
        (Request::WriteRegisters(1, vec![0x000A, 0x0102]), "100001000204000a0102"),
    ];
    for (request, expected) in table {
        let hex: String = request.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }
}

#[test]
fn only_answers_to_the_request_are_taken() {
    let read = Request::Read(Span { kind: Kind::Holding, start: 0, count: 2 });
    assert_eq!(read.accept(&[3, 4, 0, 1, 0, 2]), Ok(vec![0, 1, 0, 2]));
    assert_eq!(read.accept(&[0x83, 2]), Err(Failure::Exception(2)));
    let garbage: [&[u8]; 8] =
        [&[], &[3], &[3, 4], &[3, 4, 0, 1, 0], &[3, 2, 0, 1], &[3, 4, 0, 1, 0, 2, 0], &[4, 4, 0, 1, 0, 2], &[0x84, 2]];
    for pdu in garbage {
        assert!(matches!(read.accept(pdu), Err(Failure::Garbage(_))), "{pdu:?}");
    }
    let write = Request::WriteRegister(7, 0x0102);
    assert_eq!(write.accept(&[6, 0, 7, 1, 2]), Ok(Vec::new()));
    assert!(matches!(write.accept(&[6, 0, 8, 1, 2]), Err(Failure::Garbage(_))), "another register was written");
    let writes = Request::WriteRegisters(7, vec![1, 2]);
    assert_eq!(writes.accept(&[16, 0, 7, 0, 2]), Ok(Vec::new()));
    assert!(writes.accept(&[16, 0, 7, 0, 1]).is_err());
    let coils = Request::Read(Span { kind: Kind::Coil, start: 0, count: 9 });
    assert_eq!((coils.answer_length(), coils.accept(&[1, 2, 0xFF, 1])), (4, Ok(vec![0xFF, 1])));
}

#[test]
fn exceptions_are_told_by_name() {
    assert_eq!(
        Failure::Exception(2).to_string(),
        "exception 2 (illegal data address: the device has no such register)"
    );
    assert_eq!(Failure::Exception(99).to_string(), "exception 99 (not in the specification)");
}
