//! InfluxDB 2: a batch is one write of line protocol.
//!
//! Numbers are written as the type of the property; with `influxdb2_text` all values are text, as KubeEdge's
//! mappers write them: a field has one type for ever.

use super::client::secret;
use super::line::{self, Writer};
use super::{Means, Sent};
use crate::address::Address;
use crate::record::{Record, Typed};
use crate::route::Route;

/// See the module documentation.
pub(crate) struct Influxdb2 {
    text: bool,
    writer: Writer,
}

impl Influxdb2 {
    pub(crate) fn new(address: &Address, org: &str, bucket: &str, means: &Means) -> Self {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("org", org)
            .append_pair("bucket", bucket)
            .append_pair("precision", "ms")
            .finish();
        let authorization = means.secrets.token.as_ref().and_then(|token| secret(&format!("Token {token}")));
        let url = format!("{}/api/v2/write?{query}", address.url());
        Self { text: means.influxdb2_text, writer: Writer::new(url, authorization, &means.tls, address.tls) }
    }

    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(lines) = lines(records, self.text) else {
            return Sent::refused(0, "the value is not for InfluxDB");
        };
        self.writer.send(records, lines).await
    }
}

fn lines(records: &[Record], text: bool) -> Option<String> {
    let mut lines = String::new();
    for record in records {
        let Route::Influxdb2 { measurement, tags, field } = &record.target.route else { return None };
        line::measurement(&mut lines, measurement);
        for (key, value) in tags {
            line::tag(&mut lines, key, value);
        }
        let value = if text { Typed::Text(record.value.to_text().into()) } else { record.typed() };
        line::field(&mut lines, true, field, &value);
        line::end(&mut lines, record.unix_ms);
    }
    Some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::record_of;
    use skerry_mapper_sdk::Value;

    #[test]
    fn a_field_has_one_type_whatever_single_values_look_like() {
        let table = [
            ("DOUBLE", Value::Int(3), "v=3 1\n", "v=\"3\" 1\n"),
            ("FLOAT", Value::Float(0.5), "v=0.5 1\n", "v=\"0.5\" 1\n"),
            ("INT", Value::Int(3), "v=3i 1\n", "v=\"3\" 1\n"),
            ("INT", Value::Uint(3), "v=3i 1\n", "v=\"3\" 1\n"),
            ("BOOLEAN", Value::Bool(false), "v=false 1\n", "v=\"false\" 1\n"),
            ("STRING", Value::Text("3".into()), "v=\"3\" 1\n", "v=\"3\" 1\n"),
            ("BYTES", Value::Bytes(vec![255]), "v=\"/w==\" 1\n", "v=\"/w==\" 1\n"),
        ];
        for (data_type, value, typed, text) in table {
            let tags = [("unit".to_owned(), "C".to_owned())].into();
            let route = Route::Influxdb2 { measurement: "m".into(), tags, field: "v".into() };
            let records = [record_of(data_type, route, value, 1)];
            assert_eq!(lines(&records, false).unwrap(), format!("m,unit=C {typed}"));
            assert_eq!(lines(&records, true).unwrap(), format!("m,unit=C {text}"));
        }
    }
}
