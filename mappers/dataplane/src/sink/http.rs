//! HTTP: one POST for each value, with the form that KubeEdge's mappers send.

use std::time::{Duration, Instant};

use super::client::{Client, post};
use super::{Means, Sent};
use crate::address::Address;
use crate::record::Record;
use crate::route::Route;

/// Values that are taken are said so at least this often, however many are left.
const TURN: Duration = Duration::from_secs(5);

/// See the module documentation.
pub(crate) struct Http {
    base: String,
    client: Client,
}

impl Http {
    pub(crate) fn new(address: Address, means: &Means) -> Self {
        Self { client: Client::new(&means.tls, address.tls), base: address.url() }
    }

    /// One after the other, so that values of a property stay in order.
    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        let began = Instant::now();
        for (taken, record) in records.iter().enumerate() {
            if began.elapsed() > TURN {
                return Sent { taken, trouble: None };
            }
            let Route::Http { path, timeout_ms } = &record.target.route else {
                return Sent::refused(taken, "the value is not for HTTP");
            };
            let url = format!("{}{path}", self.base);
            let sent = match post(&url, "application/x-www-form-urlencoded", None, form(record)) {
                Ok(request) => self.client.send(request, Duration::from_millis(*timeout_ms)).await.map(|_| ()),
                Err(trouble) => Err(trouble),
            };
            if let Err(trouble) = sent {
                return Sent { taken, trouble: Some(trouble) };
            }
        }
        Sent::all(records)
    }
}

/// `<property>=<value>&time=<time>`.
fn form(record: &Record) -> String {
    form_urlencoded::Serializer::new(String::new())
        .append_pair(&record.target.property, &record.value.to_text())
        .append_pair("time", &record.local_time())
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::record;
    use skerry_mapper_sdk::Value;

    #[test]
    fn a_value_cannot_add_a_field() {
        let text = form(&record(Value::Text("1&time=never&x=ü".into()), 1_700_000_000_000));
        let fields: Vec<_> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        assert_eq!(fields[0], ("temperature".to_owned(), "1&time=never&x=ü".to_owned()));
        assert_eq!((fields.len(), fields[1].0.as_str(), fields[1].1.len()), (2, "time", "2023-11-14 22:13:20".len()));
    }
}
