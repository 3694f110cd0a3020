//! Topics of KubeEdge's event bus: read strictly, and written.
//!
//! A topic says which device is meant, and nothing else is believed about it: a topic that is not exactly one of
//! these, or names what cannot be a name, is no request.

use skerry_common::Key;

const DEVICE: &str = "$hw/events/device/";
const NODE: &str = "$hw/events/node/";

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The twins of a device.
    TwinGet(Key),
    /// Values of a device, reported or wanted.
    TwinUpdate(Key),
    /// The state of a device.
    StateUpdate(Key),
    /// The devices of this node.
    Members,
    /// What the cloud wants of a device, which a client cannot say for it.
    CloudUpdate(Key),
}

impl Asked {
    /// Reads the topic of a message that came. `None`: it is no request to this node.
    pub(super) fn parse(topic: &str, node: &str) -> Option<Self> {
        if let Some(rest) = topic.strip_prefix(NODE) {
            let asked = rest.strip_prefix(node)?;
            return (asked == "/membership/get").then_some(Self::Members);
        }
        let mut parts = topic.strip_prefix(DEVICE)?.splitn(3, '/');
        let (namespace, name, what) = (parts.next()?, parts.next()?, parts.next()?);
        if namespace.is_empty() {
            return None;
        }
        let key = Key::checked(namespace, name).ok()?;
        match what {
            "twin/get" => Some(Self::TwinGet(key)),
            "twin/update" => Some(Self::TwinUpdate(key)),
            "state/update" => Some(Self::StateUpdate(key)),
            "twin/cloud_updated" => Some(Self::CloudUpdate(key)),
            _ => None,
        }
    }

    /// Where the answer goes.
    pub(super) fn answer(&self, node: &str) -> String {
        match self {
            Self::TwinGet(key) => device(key, "twin/get/result"),
            // As in KubeEdge, where both have one answer.
            Self::TwinUpdate(key) | Self::CloudUpdate(key) => device(key, "twin/update/result"),
            Self::StateUpdate(key) => device(key, "state/update/result"),
            Self::Members => format!("{NODE}{node}/membership/get/result"),
        }
    }

    /// The device in question.
    pub(super) fn key(&self) -> Option<&Key> {
        match self {
            Self::TwinGet(key) | Self::TwinUpdate(key) | Self::StateUpdate(key) | Self::CloudUpdate(key) => Some(key),
            Self::Members => None,
        }
    }
}

/// What to subscribe to.
pub(super) fn subscriptions(node: &str) -> [String; 3] {
    [
        format!("{DEVICE}+/+/state/update"),
        format!("{DEVICE}+/+/twin/+"),
        // KubeEdge takes those of all nodes, and answers for itself.
        format!("{NODE}{node}/membership/get"),
    ]
}

fn device(key: &Key, what: &str) -> String {
    format!("{DEVICE}{}/{}/{what}", key.namespace, key.name)
}

/// What is wanted of a device and is not so yet.
pub(super) fn delta(key: &Key) -> String {
    device(key, "twin/update/delta")
}

/// What has changed of a device.
pub(super) fn document(key: &Key) -> String {
    device(key, "twin/update/document")
}

/// The state of a device.
pub(super) fn state(key: &Key) -> String {
    device(key, "state/update/result")
}

/// Devices that came and went.
pub(super) fn members(node: &str) -> String {
    format!("{NODE}{node}/membership/updated")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_exactly_a_request_to_this_node() {
        let key = Key::checked("plant", "b1").unwrap();
        for (topic, asked) in [
            ("$hw/events/device/plant/b1/twin/get", Some(Asked::TwinGet(key.clone()))),
            ("$hw/events/device/plant/b1/twin/update", Some(Asked::TwinUpdate(key.clone()))),
            ("$hw/events/device/plant/b1/state/update", Some(Asked::StateUpdate(key.clone()))),
            ("$hw/events/device/plant/b1/twin/cloud_updated", Some(Asked::CloudUpdate(key))),
            ("$hw/events/node/edge-1/membership/get", Some(Asked::Members)),
            // What only the node says.
            ("$hw/events/device/plant/b1/twin/get/result", None),
            ("$hw/events/device/plant/b1/twin/update/delta", None),
            ("$hw/events/device/plant/b1/updated", None),
            ("$hw/events/node/edge-1/membership/updated", None),
            ("$hw/events/node/edge-1/membership/detail", None),
            // Other nodes.
            ("$hw/events/node/edge-2/membership/get", None),
            ("$hw/events/node/edge-11/membership/get", None),
            ("$hw/events/node//membership/get", None),
            // No names.
            ("$hw/events/device//b1/twin/get", None),
            ("$hw/events/device/plant//twin/get", None),
            ("$hw/events/device/../b1/twin/get", None),
            ("$hw/events/device/plant/b1\n/twin/get", None),
            ("$hw/events/device/plant/a/b/twin/get", None),
            ("$hw/events/device/+/b1/twin/get", None),
            // Not quite.
            ("$hw/events/device/b1/twin/get", None),
            ("$hw/events/device/plant/b1/twin/get/", None),
            ("/$hw/events/device/plant/b1/twin/get", None),
            ("$HW/events/device/plant/b1/twin/get", None),
            ("", None),
        ] {
            assert_eq!(Asked::parse(topic, "edge-1"), asked, "{topic}");
        }
    }

    #[test]
    fn answers_and_news_have_kubeedges_topics() {
        let key = Key::checked("plant", "b1").unwrap();
        for (topic, expected) in [
            (Asked::TwinGet(key.clone()).answer("n"), "$hw/events/device/plant/b1/twin/get/result"),
            (Asked::TwinUpdate(key.clone()).answer("n"), "$hw/events/device/plant/b1/twin/update/result"),
            (Asked::StateUpdate(key.clone()).answer("n"), "$hw/events/device/plant/b1/state/update/result"),
            (Asked::Members.answer("n"), "$hw/events/node/n/membership/get/result"),
            (delta(&key), "$hw/events/device/plant/b1/twin/update/delta"),
            (document(&key), "$hw/events/device/plant/b1/twin/update/document"),
            (state(&key), "$hw/events/device/plant/b1/state/update/result"),
            (members("n"), "$hw/events/node/n/membership/updated"),
        ] {
            assert_eq!(topic, expected);
        }
    }

    proptest! {
        #[test]
        fn no_topic_names_what_is_no_name(topic in "(\\$hw/events/(device|node)/)?[a-z./+#$ ]{0,40}(/twin/get|/twin/update)?") {
            if let Some(asked) = Asked::parse(&topic, "edge-1") {
                let key = asked.key().unwrap();
                prop_assert!(Key::checked(&key.namespace, &key.name).is_ok());
                let begin = format!("$hw/events/device/{}/{}/", key.namespace, key.name);
                prop_assert!(topic.starts_with(&begin));
            }
        }
    }
}
