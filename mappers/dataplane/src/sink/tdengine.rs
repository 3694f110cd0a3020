//! TDengine: a batch is one schemaless write to the REST interface of taosAdapter.
//!
//! Its statements over REST are text without parameters, so nothing is bound there; line protocol has no statement
//! that a value could leave. The super-table and its columns are those of KubeEdge's mappers (`localtion` is their
//! spelling); TDengine makes them, and makes columns of text longer, by itself.

use super::client::secret;
use super::line::{self, Writer};
use super::{Means, Sent};
use crate::address::Address;
use crate::record::{Record, Typed};
use crate::route::Route;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// See the module documentation.
pub(crate) struct Tdengine {
    writer: Writer,
}

impl Tdengine {
    pub(crate) fn new(address: &Address, database: &str, means: &Means) -> Self {
        let secrets = &means.secrets;
        let basic = secrets.username.as_ref().zip(secrets.password.as_ref());
        let basic = basic.map(|(user, password)| BASE64.encode(format!("{user}:{password}")));
        let authorization = basic.and_then(|basic| secret(&format!("Basic {basic}")));
        let url = format!("{}/influxdb/v1/write?db={database}&precision=ms", address.url());
        Self { writer: Writer::new(url, authorization, &means.tls, address.tls) }
    }

    pub(crate) async fn send(&mut self, records: &[Record]) -> Sent {
        let Some(lines) = lines(records) else {
            return Sent::refused(0, "the value is not for TDengine");
        };
        self.writer.send(records, lines).await
    }
}

fn lines(records: &[Record]) -> Option<String> {
    let mut lines = String::new();
    for record in records {
        let Route::Tdengine { table } = &record.target.route else { return None };
        let target = &record.target;
        line::measurement(&mut lines, table);
        line::tag(&mut lines, "localtion", &target.property.replace('-', "_"));
        let device = format!("{}/{}", target.namespace, target.device);
        let fields = [
            ("deviceid", device),
            ("propertyname", target.property.clone()),
            ("data", record.value.to_text()),
            ("type", target.data_type.to_ascii_lowercase()),
        ];
        for (index, (key, value)) in fields.into_iter().enumerate() {
            line::field(&mut lines, index == 0, key, &Typed::Text(value.into()));
        }
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
    fn a_value_is_a_row_of_the_devices_super_table() {
        let route = Route::Tdengine { table: "default_boiler".into() };
        let records = [record_of("STRING", route, Value::Text("a\"; DROP DATABASE plant; --".into()), 5)];
        let expected = "default_boiler,localtion=temperature deviceid=\"default/boiler\",propertyname=\"temperature\",\
                        data=\"a\\\"; DROP DATABASE plant; --\",type=\"string\" 5\n";
        assert_eq!(lines(&records).unwrap(), expected);
    }
}
