//! Rules in CEL (`x-kubernetes-validations`).
//!
//! `self` is the value, `oldSelf` the one that it replaces; a rule that speaks of `oldSelf` runs only when
//! there is one. Invariants: a rule that cannot be evaluated refuses the object and says why, except when it
//! calls a function that is not served here. Limits: [`MAX_RULE`] bytes of a rule, and [`MAX_COST`]: the size of
//! the rule times the longest list or map of the value, once for each loop within a loop, which bounds the
//! steps of its evaluation before it begins.

use crate::check::type_name;
use crate::node::{Items, Kind, Node, key_of};
use crate::prune::{index, step};
use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::objects::{Key, Map};
use cel::{Context, Env, ExecutionError, Program, Value as Cel};
use serde_json::Value;
use skerry_apimachinery::json::str_at;
use skerry_apimachinery::{FieldError, FieldProblem};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Longest rule, in bytes.
const MAX_RULE: usize = 16 << 10;
/// Most steps that a rule may take over one value: about a second.
const MAX_COST: u64 = 10_000_000;
/// Names that are escaped in rules, because they mean something in CEL.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [cel::extensions::strings, cel::extensions::lists, cel::extensions::math] {
        if let Err(error) = env.add_extension(extension) {
            tracing::error!(%error, "a library of rules is missing");
        }
    }
    Arc::new(env)
});

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    text: String,
    program: Program,
    message: String,
    message_program: Option<Program>,
    problem: FieldProblem,
    field: String,
    /// Runs only over a change.
    transition: bool,
    size: u64,
    loops: u32,
}

impl Rule {
    pub(crate) fn compile(rule: &Value, path: &str) -> Result<Self, FieldError> {
        let text = str_at(rule, "/rule").trim();
        if text.is_empty() {
            return Err(FieldError::required(format!("{path}.rule"), "rule is not specified"));
        }
        let parse = |field: &str, text: &str| {
            if text.len() > MAX_RULE {
                let why = format!("rules may not be longer than {MAX_RULE} bytes");
                return Err(FieldError::invalid(format!("{path}.{field}"), text.len(), why));
            }
            let wrong =
                |error| FieldError::invalid(format!("{path}.{field}"), text, format!("compilation failed: {error}"));
            ENV.compile(text).map_err(wrong)
        };
        let program = parse("rule", text)?;
        let message_program = match str_at(rule, "/messageExpression") {
            "" => None,
            text => Some(parse("messageExpression", text)?),
        };
        let problem = match str_at(rule, "/reason") {
            "FieldValueForbidden" => FieldProblem::Forbidden,
            "FieldValueRequired" => FieldProblem::Required,
            "FieldValueDuplicate" => FieldProblem::Duplicate,
            _ => FieldProblem::Invalid,
        };
        let (size, loops) = measure(program.expression());
        let optional = rule.get("optionalOldSelf") == Some(&Value::Bool(true));
        Ok(Self {
            transition: program.references().has_variable("oldSelf") && !optional,
            text: text.to_owned(),
            program,
            message: str_at(rule, "/message").to_owned(),
            message_program,
            problem,
            field: str_at(rule, "/fieldPath").to_owned(),
            size,
            loops,
        })
    }

    fn check(&self, node: &Node, new: &Value, old: Option<&Value>, path: &str) -> Option<FieldError> {
        if self.transition && old.is_none() {
            return None;
        }
        let refuse = |why: String| {
            let value = match new {
                Value::Object(_) | Value::Array(_) => type_name(new).into(),
                scalar => scalar.clone(),
            };
            let value =
                (self.problem != FieldProblem::Forbidden && self.problem != FieldProblem::Required).then_some(value);
            Some(FieldError { field: format!("{path}{}", self.field), problem: self.problem, value, detail: why })
        };
        let longest = longest(new).max(old.map_or(0, longest)).max(1);
        let cost = longest.checked_pow(self.loops).and_then(|loops| loops.checked_mul(self.size));
        if cost.is_none_or(|cost| cost > MAX_COST) {
            return refuse(format!(
                "the rule {:?} would take too long over a value with lists of {longest} items",
                self.text
            ));
        }
        let mut context = Context::with_env(ENV.clone());
        context.add_variable_from_value("self", to_cel(Some(node), new));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", to_cel(Some(node), old));
        }
        match self.program.execute(&context) {
            Ok(Cel::Bool(true)) => None,
            Ok(Cel::Bool(false)) => {
                let made = self.message_program.as_ref().and_then(|program| program.execute(&context).ok());
                refuse(match made {
                    Some(Cel::String(text)) if !text.trim().is_empty() => text.to_string(),
                    _ if !self.message.is_empty() => self.message.clone(),
                    _ => format!("failed rule: {}", self.text),
                })
            }
            Ok(_) => refuse(format!("rule compile error: {:?} must evaluate to a bool", self.text)),
            Err(ExecutionError::UndeclaredReference(name)) if self.program.references().has_function(&*name) => {
                tracing::warn!(function = %name, rule = self.text, "a rule calls an unknown function and is not enforced");
                None
            }
            Err(error) => refuse(format!("rule evaluation error: {error}: {}", self.text)),
        }
    }
}

/// Runs the rules of a node and of what is in its value.
pub(crate) fn run(node: &Node, new: &Value, old: Option<&Value>, path: &mut String, errors: &mut Vec<FieldError>) {
    if new.is_null() {
        return;
    }
    for rule in &node.rules {
        errors.extend(rule.check(node, new, old, path));
    }
    match new {
        Value::Object(map) => {
            for (name, inner) in map {
                if let Some(schema) = node.properties.get(name).or(node.values.as_deref()) {
                    let old = old.and_then(|old| old.get(name));
                    step(path, name, |path| run(schema, inner, old, path, errors));
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = &node.items else { return };
            let before = earlier(node, old);
            for (at, item) in items.iter().enumerate() {
                let old = match &node.list {
                    Items::Map(keys) => before.get(&Value::Object(key_of(item, keys)).to_string()).copied(),
                    _ => None,
                };
                index(path, at, |path| run(schema, item, old, path, errors));
            }
        }
        _ => {}
    }
}

/// The items of a list map before the change, by their keys.
fn earlier<'v>(node: &Node, old: Option<&'v Value>) -> HashMap<String, &'v Value> {
    let (Items::Map(keys), Some(Value::Array(items))) = (&node.list, old) else { return HashMap::new() };
    items.iter().map(|item| (Value::Object(key_of(item, keys)).to_string(), item)).collect()
}

/// Number of nodes of an expression, and how deep its loops are nested.
fn measure(expression: &IdedExpr) -> (u64, u32) {
    let sum = |parts: &mut dyn Iterator<Item = &IdedExpr>| {
        parts.map(measure).fold((1_u64, 0_u32), |(size, loops), (s, l)| (size.saturating_add(s), loops.max(l)))
    };
    match &expression.expr {
        Expr::Call(call) => sum(&mut call.target.as_deref().into_iter().chain(&call.args)),
        Expr::Select(select) => sum(&mut std::iter::once(&*select.operand)),
        Expr::List(list) => sum(&mut list.elements.iter()),
        Expr::Map(map) => entries(map.entries.iter().map(|entry| &entry.expr)),
        Expr::Struct(value) => entries(value.entries.iter().map(|entry| &entry.expr)),
        Expr::Comprehension(walk) => {
            let outside = sum(&mut [&walk.iter_range, &walk.accu_init, &walk.result].into_iter());
            let inside = sum(&mut [&walk.loop_cond, &walk.loop_step].into_iter());
            (outside.0.saturating_add(inside.0), outside.1.max(inside.1 + 1))
        }
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => (1, 0),
    }
}

fn entries<'e>(entries: impl Iterator<Item = &'e EntryExpr>) -> (u64, u32) {
    entries.fold((1, 0), |(size, loops), entry| {
        let parts = match entry {
            EntryExpr::StructField(field) => vec![&field.value],
            EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
        };
        parts
            .into_iter()
            .map(measure)
            .fold((size, loops), |(size, loops), (s, l)| (size.saturating_add(s), loops.max(l)))
    })
}

/// Length of the longest list or map in a value.
fn longest(value: &Value) -> u64 {
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    match value {
        Value::Array(items) => items.iter().map(longest).fold(count(items.len()), u64::max),
        Value::Object(map) => map.values().map(longest).fold(count(map.len()), u64::max),
        _ => 0,
    }
}

fn to_cel(node: Option<&Node>, value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) => {
            let float = node.is_some_and(|node| node.kind == Some(Kind::Number));
            match number.as_i64().filter(|_| !float) {
                Some(integer) => Cel::Int(integer),
                None => Cel::Float(number.as_f64().unwrap_or_default()),
            }
        }
        Value::Array(items) => {
            let schema = node.and_then(|node| node.items.as_deref());
            Cel::List(Arc::new(items.iter().map(|item| to_cel(schema, item)).collect()))
        }
        Value::Object(map) => {
            let fields = map.iter().map(|(name, inner)| {
                let known = node.and_then(|node| node.properties.get(name));
                let key = if known.is_some() { escaped(name) } else { name.clone() };
                let schema = known.or_else(|| node.and_then(|node| node.values.as_deref()));
                (Key::from(key), to_cel(schema, inner))
            });
            Cel::Map(Map { map: Arc::new(fields.collect()) })
        }
    }
}

/// A field's name as rules write it.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    if name.bytes().all(|c| c.is_ascii_alphanumeric()) {
        return name.to_owned();
    }
    name.replace("__", "__underscores__").replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__")
}
