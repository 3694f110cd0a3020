//! Credentials of sinks: from the environment of the mapper, under the names that KubeEdge's mappers read.

use std::fmt;

/// What the environment has. Shown as what is there, never as what it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// `TOKEN`: InfluxDB.
    pub token: Option<String>,
    /// `USERNAME`: TDengine.
    pub username: Option<String>,
    /// `PASSWORD`: Redis, MySQL, TDengine.
    pub password: Option<String>,
    /// `MQTT_USERNAME`: brokers; KubeEdge's mappers have none.
    pub mqtt_username: Option<String>,
    /// `MQTT_PASSWORD`: brokers.
    pub mqtt_password: Option<String>,
}

impl Secrets {
    /// Those of this process. An empty variable is none.
    pub fn from_environment() -> Self {
        let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            token: get("TOKEN"),
            username: get("USERNAME"),
            password: get("PASSWORD"),
            mqtt_username: get("MQTT_USERNAME"),
            mqtt_password: get("MQTT_PASSWORD"),
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("token", &self.token.is_some())
            .field("username", &self.username.is_some())
            .field("password", &self.password.is_some())
            .field("mqtt_username", &self.mqtt_username.is_some())
            .field("mqtt_password", &self.mqtt_password.is_some())
            .finish()
    }
}
