//! `visitors.configData`: which node of the server a property is.

use opcua::types::{Identifier, NodeId, VariantScalarTypeId as Type};
use serde_json::{Map, Value};
use skerry_mapper_sdk::{ConfigError, Keys};

/// Longest node id: the specification's limit of its text, with a namespace before it.
const MAX_NODE_ID: usize = 8192;

/// Types that a value can be written as.
const TYPES: &[(&str, Type)] = &[
    ("Boolean", Type::Boolean),
    ("SByte", Type::SByte),
    ("Byte", Type::Byte),
    ("Int16", Type::Int16),
    ("UInt16", Type::UInt16),
    ("Int32", Type::Int32),
    ("UInt32", Type::UInt32),
    ("Int64", Type::Int64),
    ("UInt64", Type::UInt64),
    ("Float", Type::Float),
    ("Double", Type::Double),
    ("String", Type::String),
    ("DateTime", Type::DateTime),
    ("ByteString", Type::ByteString),
];

/// Where a property is in the server.
#[derive(Debug, Clone, PartialEq)]
pub struct VisitorConfig {
    /// `nodeID`.
    pub node: Address,
    /// `dataType`: what the node takes, where the server does not say it.
    pub data_type: Option<Type>,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub enum Address {
    /// `ns=2;s=name`: the namespace by its index, which a server may change when it starts.
    Index(NodeId),
    /// `nsu=http://example.com/plant;s=name`: the namespace by its name.
    Uri {
        /// The namespace.
        namespace: String,
        /// The node in it.
        identifier: Identifier,
    },
}

impl VisitorConfig {
    /// Reads the configuration of a property.
    ///
    /// # Errors
    /// Names the key and what would be right.
    pub fn parse(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut keys = Keys::new(object)?;
        let fix = "the node, as in ns=2;s=Boiler.Temperature or ns=2;i=1005";
        let text = keys.text("nodeID")?.ok_or(ConfigError::Missing { key: "nodeID", fix })?;
        let node = Address::parse(&text).ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            ConfigError::invalid("nodeID", format!("`{shown}` is not {fix}"))
        })?;
        let data_type = keys.word("dataType", TYPES)?;
        // The node is found by its id; its name is for people.
        keys.ignore("browseName");
        keys.finish()?;
        Ok(Self { node, data_type })
    }
}

impl Address {
    fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_NODE_ID {
            return None;
        }
        let Some(rest) = text.strip_prefix("nsu=") else {
            return text.parse().ok().map(Self::Index);
        };
        let (namespace, node) = rest.split_once(';').filter(|(namespace, _)| !namespace.is_empty())?;
        // Not another namespace: ns= cannot follow nsu=.
        let node: NodeId = Some(node).filter(|node| !node.starts_with("ns"))?.parse().ok()?;
        Some(Self::Uri { namespace: namespace.to_owned(), identifier: node.identifier })
    }

    /// The node in a server that has these namespaces.
    ///
    /// # Errors
    /// The namespace that the server does not have.
    pub(crate) fn resolve(&self, namespaces: &[String]) -> Result<NodeId, String> {
        match self {
            Self::Index(node) => Ok(node.clone()),
            Self::Uri { namespace, identifier } => {
                let index = namespaces.iter().position(|known| known == namespace);
                let index = index.and_then(|index| u16::try_from(index).ok());
                let index = index.ok_or_else(|| format!("the server has no namespace {namespace}"))?;
                Ok(NodeId::new(index, identifier.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: serde_json::Value) -> Result<VisitorConfig, ConfigError> {
        let serde_json::Value::Object(object) = json else { panic!("an object") };
        VisitorConfig::parse(object)
    }

    #[test]
    fn nodes_are_named_as_in_the_specification() {
        let table = [
            ("ns=2;i=2", NodeId::new(2, 2_u32)),
            ("i=2258", NodeId::new(0, 2258_u32)),
            ("ns=2;s=Line 1;Motor=x", NodeId::new(2, "Line 1;Motor=x")),
        ];
        for (text, node) in table {
            let visitor = parse(json!({ "nodeID": text, "browseName": "x" })).unwrap();
            assert_eq!(visitor, VisitorConfig { node: Address::Index(node), data_type: None });
        }
        let visitor = parse(json!({ "NodeId": "nsu=http://x/y;s=a", "dataType": "uint16" })).unwrap();
        assert_eq!(visitor.data_type, Some(Type::UInt16));
        let namespaces = ["http://opcfoundation.org/UA/".to_owned(), "urn:server".into(), "http://x/y".into()];
        assert_eq!(visitor.node.resolve(&namespaces), Ok(NodeId::new(2, "a")));
        assert_eq!(visitor.node.resolve(&namespaces[..2]), Err("the server has no namespace http://x/y".to_owned()));
    }

    #[test]
    fn mistakes_are_refused_with_the_key_and_the_fix() {
        let table = [
            (json!({}), "`nodeID` is missing: the node, as in ns=2;s="),
            (json!({ "nodeID": "ns=1,i=1005" }), "`nodeID`: `ns=1,i=1005` is not the node, as in"),
            (json!({ "nodeID": "ns=70000;i=1" }), "`nodeID`"),
            (json!({ "nodeID": "nsu=;i=1" }), "`nodeID`"),
            (json!({ "nodeID": "nsu=urn:x;ns=1;i=1" }), "`nodeID`"),
            (json!({ "nodeID": format!("s={}", "x".repeat(MAX_NODE_ID)) }), "`nodeID`"),
            (json!({ "nodeID": "i=1", "dataType": "float32" }), "`dataType`: `float32` is none of Boolean, SByte"),
            (json!({ "nodeID": "i=1", "nodeid": "i=2" }), "is there twice"),
            (json!({ "nodeID": "i=1", "offset": 2 }), "unknown key `offset`; known here: nodeID, dataType, browseName"),
        ];
        for (config, expected) in table {
            let problem = parse(config.clone()).unwrap_err().to_string();
            assert!(problem.contains(expected), "{config}: {problem}");
        }
    }
}
