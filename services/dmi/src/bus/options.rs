//! Which broker, and how: `dmi.mqtt` in `edge.yaml`.
//!
//! There is no broker by default. KubeEdge's default is `tcp://127.0.0.1:1883`, which here has to be written
//! down: whatever listens there would be let in to set values of devices.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Ports that brokers have, without and with TLS.
const PORT: u16 = 1883;
const TLS_PORT: u16 = 8883;
/// Messages about one device in a second: it reports its properties in one, or some dozens in one each.
const MESSAGES_PER_SECOND: u32 = 100;

/// A broker that is silent for longer is gone; its own limit for us is half as much again.
const KEEP_ALIVE_SECONDS: u16 = 20;

/// Version of the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MqttVersion {
    /// 3.1.1, as in KubeEdge: every broker knows it.
    #[default]
    #[serde(rename = "3.1.1")]
    V3,
    /// 5.
    #[serde(rename = "5")]
    V5,
}

/// Files for TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct MqttTls {
    /// Certificates of those who may have signed the broker's (PEM).
    pub ca_file: PathBuf,
    /// Our own certificate (PEM), if the broker asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

/// The broker of the event bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mqtt {
    /// `tcp://host:port`, or `ssl://host:port` with `tls`; also `mqtt` and `mqtts`.
    pub server: String,
    /// Version of the protocol: `3.1.1` or `5`.
    #[serde(default)]
    pub version: MqttVersion,
    /// Name to the broker; one that begins with `skerry-<node>` and that nobody can guess when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client_id: String,
    /// User at the broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the user's password; line ends at its end do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// For `ssl://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<MqttTls>,
    /// Other nodes use the broker too: requests about devices that are not here are not answered.
    #[serde(default)]
    pub shared: bool,
    /// Messages about one device in a second; more are not taken.
    #[serde(default = "messages_per_second")]
    pub messages_per_second: u32,
    /// Seconds after which a broker that is silent is gone.
    #[serde(default = "keep_alive_seconds")]
    pub keep_alive_seconds: u16,
}

fn keep_alive_seconds() -> u16 {
    KEEP_ALIVE_SECONDS
}

fn messages_per_second() -> u32 {
    MESSAGES_PER_SECOND
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

impl Mqtt {
    /// A broker with all defaults.
    pub fn new(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            version: MqttVersion::default(),
            client_id: String::new(),
            username: None,
            password_file: None,
            tls: None,
            shared: false,
            messages_per_second: MESSAGES_PER_SECOND,
            keep_alive_seconds: KEEP_ALIVE_SECONDS,
        }
    }

    /// What is wrong with it, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        let server = self.parse()?;
        if server.tls != self.tls.is_some() {
            return Err("mqtt.tls goes with ssl:// in mqtt.server, and not with tcp://".into());
        }
        if self.tls.as_ref().is_some_and(|tls| tls.cert_file.is_some() != tls.key_file.is_some()) {
            return Err("mqtt.tls.certFile and mqtt.tls.keyFile go together".into());
        }
        if self.password_file.is_some() && self.username.is_none() {
            return Err("mqtt.passwordFile needs mqtt.username".into());
        }
        if self.messages_per_second == 0 || self.keep_alive_seconds == 0 {
            return Err("mqtt.messagesPerSecond and mqtt.keepAliveSeconds must be at least 1".into());
        }
        let tls = self.tls.iter().flat_map(|tls| [Some(&tls.ca_file), tls.cert_file.as_ref(), tls.key_file.as_ref()]);
        if tls.flatten().chain(&self.password_file).any(|path| !path.is_absolute()) {
            return Err("files of mqtt must be absolute paths".into());
        }
        Ok(())
    }

    pub(super) fn parse(&self) -> Result<Server, String> {
        let wrong = || format!("mqtt.server {:?} must be as tcp://127.0.0.1:1883 or ssl://broker:8883", self.server);
        let (scheme, rest) = self.server.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "tcp" | "mqtt" => false,
            "ssl" | "tls" | "mqtts" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or_else(wrong)?)),
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let bad = |c: char| c.is_control() || c.is_whitespace() || "/@?#[]".contains(c);
        if host.is_empty() || host.contains(bad) || (host.contains(':') && !rest.starts_with('[')) {
            return Err(wrong());
        }
        let default = if tls { TLS_PORT } else { PORT };
        let port = port.map_or(Ok(default), |port| port.parse().map_err(|_| wrong()))?;
        Ok(Server { host: host.to_owned(), port, tls })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn servers_are_written_as_in_kubeedge() {
        for (text, host, port, tls) in [
            ("tcp://127.0.0.1:1883", "127.0.0.1", 1883, false),
            ("tcp://broker", "broker", 1883, false),
            ("mqtt://broker:1/", "broker", 1, false),
            ("ssl://broker", "broker", 8883, true),
            ("mqtts://[::1]:9", "::1", 9, true),
            ("tls://[::1]", "::1", 8883, true),
        ] {
            let server = Mqtt::new(text).parse().unwrap();
            assert_eq!(server, Server { host: host.into(), port, tls }, "{text}");
        }
        for text in [
            "",
            "127.0.0.1:1883",
            "http://h:1",
            "tcp://",
            "tcp://h:x",
            "tcp://u@h:1",
            "tcp://::1:9",
            "tcp://h:1/x",
            "tcp://[::1]9",
        ] {
            assert!(Mqtt::new(text).parse().is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_is_written_as_people_write_it() {
        let parse = |text: &str| skerry_common::parse::<Mqtt>(text, "test").map(|mqtt| mqtt.version);
        for (version, expected) in [("3.1.1", MqttVersion::V3), ("5", MqttVersion::V5), ("\"5\"", MqttVersion::V5)] {
            assert_eq!(parse(&format!("server: tcp://h\nversion: {version}\n")).unwrap(), expected, "{version}");
        }
        assert_eq!(parse("server: tcp://h\n").unwrap(), MqttVersion::V3);
        assert!(parse("server: tcp://h\nversion: 4\n").is_err());
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let tls = || Some(MqttTls { ca_file: "/ca".into(), ..MqttTls::default() });
        let plain = || Mqtt::new("tcp://h");
        let secure = || Mqtt { tls: tls(), ..Mqtt::new("ssl://h") };
        assert!(plain().check().is_ok() && secure().check().is_ok());
        let cert = MqttTls { cert_file: Some("/c".into()), ..tls().unwrap() };
        for wrong in [
            Mqtt { tls: tls(), ..plain() },
            Mqtt { tls: None, ..secure() },
            Mqtt { tls: Some(cert), ..secure() },
            Mqtt { password_file: Some("/p".into()), ..plain() },
            Mqtt { username: Some("u".into()), password_file: Some("p".into()), ..plain() },
            Mqtt { messages_per_second: 0, ..plain() },
            Mqtt { keep_alive_seconds: 0, ..plain() },
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
    }
}
