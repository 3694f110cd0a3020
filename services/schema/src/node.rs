//! The compiled schema, and what makes one invalid.
//!
//! Invariants: patterns and rules are compiled; a node below the root has a type, or says that it needs
//! none. Limits: [`MAX_DEPTH`], [`MAX_RULES`].

use crate::rules::Rule;
use regex::Regex;
use serde_json::{Map, Value};
use skerry_apimachinery::FieldError;
use skerry_apimachinery::json::{list_at, map_at, str_at};
use std::collections::BTreeMap;

/// Deeper schemas are refused: values are followed recursively.
const MAX_DEPTH: usize = 64;
/// Most rules of a schema.
const MAX_RULES: usize = 512;

/// The schema of one version of a custom resource.
#[derive(Debug)]
pub struct Schema {
    pub(crate) root: Node,
}

/// A type of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// How the items of a list are told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Items {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// The schema of one value.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) kind: Option<Kind>,
    pub(crate) int_or_string: bool,
    pub(crate) preserve: bool,
    pub(crate) embedded: bool,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Node>,
    /// Schema of the values of a map.
    pub(crate) values: Option<Box<Node>>,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) list: Items,
    pub(crate) required: Vec<String>,
    pub(crate) allowed: Vec<Value>,
    pub(crate) format: String,
    pub(crate) pattern: Option<Regex>,
    pub(crate) minimum: Option<(f64, bool)>,
    pub(crate) maximum: Option<(f64, bool)>,
    pub(crate) multiple_of: Option<f64>,
    /// Length of a text, of a list, number of fields: least and most.
    pub(crate) length: [Option<u64>; 2],
    pub(crate) count: [Option<u64>; 2],
    pub(crate) fields: [Option<u64>; 2],
    pub(crate) all_of: Vec<Node>,
    pub(crate) any_of: Vec<Node>,
    pub(crate) one_of: Vec<Node>,
    pub(crate) not: Option<Box<Node>>,
    pub(crate) rules: Vec<Rule>,
}

impl Schema {
    /// Compiles an `openAPIV3Schema`. `path` says where it is, for the errors.
    ///
    /// # Errors
    /// Every place at which the schema is not structural, or has a pattern, default or rule that is wrong.
    pub fn compile(schema: &Value, path: &str) -> Result<Self, Vec<FieldError>> {
        let mut compiler = Compiler { errors: Vec::new(), rules: 0 };
        let root = compiler.node(schema, path, 0, true);
        if root.kind != Some(Kind::Object) {
            compiler.errors.push(FieldError::invalid(
                format!("{path}.type"),
                str_at(schema, "/type"),
                "must be object at the root",
            ));
        }
        if compiler.errors.is_empty() { Ok(Self { root }) } else { Err(compiler.errors) }
    }
}

struct Compiler {
    errors: Vec<FieldError>,
    rules: usize,
}

impl Compiler {
    /// `typed` is false below `allOf` and the like, which say nothing about types.
    fn node(&mut self, schema: &Value, path: &str, depth: usize, typed: bool) -> Node {
        let mut node = Node::default();
        if depth > MAX_DEPTH {
            self.errors.push(FieldError::forbidden(path, format!("schemas may not be deeper than {MAX_DEPTH}")));
            return node;
        }
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        for banned in ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems"] {
            if schema.get(banned).is_some() {
                self.errors.push(FieldError::forbidden(format!("{path}.{banned}"), "must not be used"));
            }
        }
        node.int_or_string = flag("x-kubernetes-int-or-string");
        node.preserve = flag("x-kubernetes-preserve-unknown-fields");
        node.embedded = flag("x-kubernetes-embedded-resource");
        node.nullable = flag("nullable");
        node.kind = self.kind(schema, path, typed && !node.int_or_string && !node.preserve);
        self.bounds(&mut node, schema, path);
        for (name, inner) in map_at(schema, "/properties").into_iter().flatten() {
            let node_path = format!("{path}.properties[{name}]");
            node.properties.insert(name.clone(), self.node(inner, &node_path, depth + 1, typed));
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => node.preserve = true,
            Some(inner @ Value::Object(_)) => {
                let inner = self.node(inner, &format!("{path}.additionalProperties"), depth + 1, typed);
                node.values = Some(Box::new(inner));
            }
            _ => {}
        }
        if let Some(items) = schema.get("items") {
            node.items = Some(Box::new(self.node(items, &format!("{path}.items"), depth + 1, typed)));
        } else if node.kind == Some(Kind::Array) && typed {
            self.errors.push(FieldError::required(format!("{path}.items"), "must be specified"));
        }
        node.list = self.list(schema, &node, path);
        let mut several = |name: &str| -> Vec<Node> {
            let list = list_at(schema, &format!("/{name}")).iter().enumerate();
            list.map(|(at, inner)| self.node(inner, &format!("{path}.{name}[{at}]"), depth + 1, false)).collect()
        };
        (node.all_of, node.any_of, node.one_of) = (several("allOf"), several("anyOf"), several("oneOf"));
        if let Some(inner) = schema.get("not") {
            node.not = Some(Box::new(self.node(inner, &format!("{path}.not"), depth + 1, false)));
        }
        for (at, rule) in list_at(schema, "/x-kubernetes-validations").iter().enumerate() {
            self.rules += 1;
            let rule_path = format!("{path}.x-kubernetes-validations[{at}]");
            if self.rules > MAX_RULES {
                self.errors.push(FieldError::forbidden(rule_path, format!("more than {MAX_RULES} rules")));
                break;
            }
            match Rule::compile(rule, &rule_path) {
                Ok(rule) => node.rules.push(rule),
                Err(error) => self.errors.push(error),
            }
        }
        if let Some(default) = schema.get("default") {
            let mut wrong = Vec::new();
            crate::check::value(&node, default, &mut format!("{path}.default"), &mut wrong);
            self.errors.append(&mut wrong);
            node.default = Some(default.clone());
        }
        node
    }

    fn kind(&mut self, schema: &Value, path: &str, required: bool) -> Option<Kind> {
        let kind = match str_at(schema, "/type") {
            "object" => Kind::Object,
            "array" => Kind::Array,
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            "" => {
                if required {
                    let why = "must not be empty for specified object fields";
                    self.errors.push(FieldError::required(format!("{path}.type"), why));
                }
                return None;
            }
            other => {
                let known = ["array", "boolean", "integer", "number", "object", "string"];
                self.errors.push(FieldError::not_supported(format!("{path}.type"), other, &known));
                return None;
            }
        };
        Some(kind)
    }

    fn bounds(&mut self, node: &mut Node, schema: &Value, path: &str) {
        let number = |name: &str| schema.get(name).and_then(Value::as_f64);
        let count = |name: &str| schema.get(name).and_then(Value::as_u64);
        let flag = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        node.minimum = number("minimum").map(|bound| (bound, flag("exclusiveMinimum")));
        node.maximum = number("maximum").map(|bound| (bound, flag("exclusiveMaximum")));
        node.multiple_of = number("multipleOf").filter(|divisor| *divisor > 0.0);
        node.length = [count("minLength"), count("maxLength")];
        node.count = [count("minItems"), count("maxItems")];
        node.fields = [count("minProperties"), count("maxProperties")];
        node.allowed = list_at(schema, "/enum").to_vec();
        node.format = str_at(schema, "/format").to_owned();
        let required = list_at(schema, "/required").iter();
        node.required = required.filter_map(|name| name.as_str().map(str::to_owned)).collect();
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            match Regex::new(pattern) {
                Ok(regex) => node.pattern = Some(regex),
                Err(error) => {
                    let why = format!("must be a valid regular expression, but isn't: {error}");
                    self.errors.push(FieldError::invalid(format!("{path}.pattern"), pattern, why));
                }
            }
        }
    }

    fn list(&mut self, schema: &Value, node: &Node, path: &str) -> Items {
        match str_at(schema, "/x-kubernetes-list-type") {
            "set" => Items::Set,
            "map" => {
                let keys = list_at(schema, "/x-kubernetes-list-map-keys").iter();
                let keys: Vec<String> = keys.filter_map(|key| key.as_str().map(str::to_owned)).collect();
                let field = format!("{path}.x-kubernetes-list-map-keys");
                if keys.is_empty() {
                    let why = "must not be empty if x-kubernetes-list-type is map";
                    self.errors.push(FieldError::required(&*field, why));
                }
                for key in &keys {
                    let item = node.items.as_ref();
                    let known = item.and_then(|item| item.properties.get(key));
                    let given = item.is_some_and(|item| item.required.contains(key));
                    if !given && known.is_none_or(|inner| inner.default.is_none()) {
                        let why = "the key must be a field of the items that is required or has a default";
                        self.errors.push(FieldError::invalid(&*field, key.as_str(), why));
                    }
                }
                Items::Map(keys)
            }
            "" | "atomic" => Items::Atomic,
            other => {
                let field = format!("{path}.x-kubernetes-list-type");
                self.errors.push(FieldError::not_supported(field, other, &["atomic", "set", "map"]));
                Items::Atomic
            }
        }
    }
}

impl Schema {
    /// Lists whose items are told apart: their keys by the name of the field, none for a set. A name that
    /// means different things in different places is left out: such lists are replaced as a whole.
    pub fn lists(&self) -> BTreeMap<String, Vec<String>> {
        fn walk<'n>(name: &'n str, node: &'n Node, all: &mut BTreeMap<&'n str, Vec<&'n Items>>) {
            if node.kind == Some(Kind::Array) {
                all.entry(name).or_default().push(&node.list);
            }
            for (name, inner) in &node.properties {
                walk(name, inner, all);
            }
            for inner in node.items.iter().chain(&node.values) {
                walk("", inner, all);
            }
        }
        let mut all = BTreeMap::new();
        walk("", &self.root, &mut all);
        let same = all.into_iter().filter_map(|(name, kinds)| {
            let (first, rest) = kinds.split_first()?;
            let keys = match first {
                Items::Atomic => return None,
                Items::Set => Vec::new(),
                Items::Map(keys) => keys.clone(),
            };
            rest.iter().all(|other| other == first).then(|| (name.to_owned(), keys))
        });
        same.collect()
    }
}

/// The value of the keys of an item of a list map.
pub(crate) fn key_of(item: &Value, keys: &[String]) -> Map<String, Value> {
    keys.iter().filter_map(|key| item.get(key).map(|value| (key.clone(), value.clone()))).collect()
}
