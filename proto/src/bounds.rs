//! How many elements a message may have, counted on the wire before any of them is made.
//!
//! An empty element takes two bytes of a message and more than a hundred in memory, so a limit of a message's bytes
//! does not bound what reading it costs. The codec asks here for what whoever may use a socket sends without end;
//! the other messages are bounded well enough by their bytes.

use std::any::TypeId;

use tonic::Status;

use crate::dmi::v1::MapperMessage;

/// Values of one message of a mapper: a bus with a hundred devices of fifty registers each. Also the most devices and
/// the most states.
pub const MAX_VALUES: u32 = 5_000;
/// Namespaces of one mapper.
const MAX_NAMESPACES: u32 = 1_000;

/// So many elements at most where these field numbers lead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    path: &'static [usize],
    most: u32,
    what: &'static str,
}

const fn bound(path: &'static [usize], most: u32, what: &'static str) -> Bound {
    Bound { path, most, what }
}

/// Of `skerry.dmi.v1.MapperMessage`.
const MAPPER_MESSAGE: &[Bound] = &[
    bound(&[1, 4], MAX_NAMESPACES, "namespaces"),
    bound(&[2, 2], MAX_VALUES, "devices"),
    bound(&[2, 2, 2], MAX_VALUES, "values"),
    bound(&[3, 1], MAX_VALUES, "states"),
    bound(&[5, 3], MAX_VALUES, "values of an answer"),
];

/// The bounds of a type of messages.
pub(crate) fn of<M: 'static>() -> &'static [Bound] {
    if TypeId::of::<M>() == TypeId::of::<MapperMessage>() { MAPPER_MESSAGE } else { &[] }
}

/// Whether an encoded message keeps to its bounds.
///
/// # Errors
/// `INVALID_ARGUMENT` when it does not, or is no message.
pub(crate) fn check(message: &[u8], bounds: &[Bound]) -> Result<(), Status> {
    for Bound { path, most, what } in bounds {
        // What is not counted to its end would be read up to there.
        let found = count(message, path).ok_or_else(|| Status::invalid_argument("the message is malformed"))?;
        if found > *most as usize {
            return Err(Status::invalid_argument(format!("a message may hold {most} {what}, not {found}")));
        }
    }
    Ok(())
}

/// Elements where the path leads; nothing when it cannot be told.
fn count(mut message: &[u8], path: &[usize]) -> Option<usize> {
    let Some((number, rest)) = path.split_first() else { return Some(1) };
    let mut total = 0_usize;
    while !message.is_empty() {
        let key = prost::decode_length_delimiter(&mut message).ok()?;
        let length = match key & 7 {
            // The bytes of a number up to its last one.
            0 => message.iter().position(|byte| *byte < 0x80)? + 1,
            1 => 8,
            2 => prost::decode_length_delimiter(&mut message).ok()?,
            5 => 4,
            // Groups, which are in no message of ours.
            _ => return None,
        };
        let (inner, after) = message.split_at_checked(length)?;
        message = after;
        if key >> 3 == *number && key & 7 == 2 {
            total = total.saturating_add(count(inner, rest)?);
        }
    }
    Some(total)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::dmi::v1 as pb;
    use crate::dmi::v1::mapper_message::Message as M;

    /// Bytes of the largest message of the stream.
    const LARGEST: usize = 4 << 20;

    fn reports(devices: &[usize]) -> Vec<u8> {
        let devices = devices.iter().map(|values| pb::DeviceValues {
            device: Some(pb::DeviceKey { namespace: "n".into(), name: "d".into() }),
            values: vec![pb::Value { property: "p".into(), ..Default::default() }; *values],
        });
        let reports = pb::Reports { sequence: 7, devices: devices.collect() };
        pb::MapperMessage { message: Some(M::Reports(reports)) }.encode_to_vec()
    }

    fn refused(message: &[u8]) -> Option<String> {
        check(message, of::<pb::MapperMessage>()).err().map(|status| status.message().to_owned())
    }

    /// A field that holds bytes.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        prost::encode_length_delimiter(bytes.len(), &mut field).unwrap();
        field.extend_from_slice(bytes);
        field
    }

    #[test]
    fn elements_are_counted_over_all_devices_and_parts() {
        assert_eq!(refused(&reports(&[2_000, 3_000])), None);
        assert_eq!(refused(&reports(&[2_000, 3_001])).unwrap(), "a message may hold 5000 values, not 5001");
        // The parts of one message count together, as they are merged.
        assert!(refused(&[reports(&[3_000]), reports(&[3_000])].concat()).is_some());
        for (path, message, what) in [
            ("devices", field(2, &[0x12, 0].repeat(5_001)), "5000 devices"),
            ("states", field(3, &[0x0a, 0].repeat(5_001)), "5000 states"),
            ("namespaces", field(1, &[0x22, 0].repeat(1_001)), "1000 namespaces"),
            ("an answer", field(5, &[0x1a, 0].repeat(5_001)), "5000 values of an answer"),
        ] {
            assert!(refused(&message).unwrap().contains(what), "{path}");
        }
        assert!(of::<pb::NodeMessage>().is_empty());
    }

    /// What reading the message without the count costs.
    #[test]
    fn control_an_empty_value_is_fifty_times_its_bytes_in_memory() {
        let values = [0x12, 0].repeat(LARGEST / 2 / 16);
        let message = field(2, &field(2, &values));
        assert!(refused(&message).is_some());
        let Some(M::Reports(reports)) = pb::MapperMessage::decode(&message[..]).unwrap().message else {
            unreachable!()
        };
        let memory = reports.devices[0].values.capacity() * size_of::<pb::Value>();
        assert!(memory > 50 * message.len(), "{memory} for {}", message.len());
    }

    fn elements(message: &pb::MapperMessage) -> [usize; 5] {
        match &message.message {
            Some(M::Hello(hello)) => [hello.device_namespaces.len(), 0, 0, 0, 0],
            Some(M::Reports(reports)) => {
                let values = reports.devices.iter().map(|device| device.values.len()).sum();
                [0, reports.devices.len(), values, 0, 0]
            }
            Some(M::States(states)) => [0, 0, 0, states.states.len(), 0],
            Some(M::Result(result)) => [0, 0, 0, 0, result.values.len()],
            Some(M::Applied(_)) | None => [0; 5],
        }
    }

    /// Bytes that are often a message.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => (1..6_u8, prop::collection::vec(prop_oneof![Just(vec![0x12, 0]), Just(vec![0x08, 0x81, 0x00]),
                Just(vec![0x0a, 0]), Just(vec![0x1a, 0]), Just(field(2, &[0x12, 0, 0x12, 0]))], 0..8))
                .prop_map(|(number, parts)| field(number, &parts.concat())),
            1 => prop::collection::vec(any::<u8>(), 0..12),
        ];
        prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
    }

    proptest! {
        /// Whatever is read has been counted.
        #[test]
        fn nothing_is_read_that_was_not_counted(bytes in bytes()) {
            let counts: Vec<_> = MAPPER_MESSAGE.iter().map(|bound| count(&bytes, bound.path)).collect();
            if let (Ok(message), Some(counts)) =
                (pb::MapperMessage::decode(&bytes[..]), counts.into_iter().collect::<Option<Vec<_>>>())
            {
                let read = elements(&message);
                prop_assert!(read.iter().zip(&counts).all(|(read, counted)| read <= counted), "{read:?} {counts:?}");
            }
        }
    }
}
