//! One connection to a broker, over MQTT 3.1.1 or 5: what the bus needs of both, and nothing more.
//!
//! [`Events`] is turned by one task that must not wait for what itself has to send; [`Client`] is for the others.
//! A message of QoS 1 is acknowledged by its [`Receipt`]: every one of them must come to [`Client::settle`] or
//! [`Events::settle`], or the broker will wait for it until the connection ends. Sessions are clean.
//! Limits: [`MAX_PACKET`] either way, [`OUTBOUND`] messages on their way out; receipts that find no room wait, no
//! more of them than MQTT has packet identifiers (65,535).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc as v4;
use rumqttc_v5 as v5;
use rustls::ClientConfig;

use super::error::Ended;
use super::options::MqttVersion;
use super::{INBOUND, MAX_PACKET, OUTBOUND};

/// Who we are to which broker.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) client_id: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: Option<(String, Option<Vec<u8>>)>,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// A broker that is silent for longer is gone: at the beginning, and later twice.
    pub(super) keep_alive_seconds: u16,
}

/// A message from the broker.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    /// Said once, to whoever comes.
    pub(super) retained: bool,
    pub(super) receipt: Receipt,
}

/// What the broker waits for.
#[derive(Debug)]
pub(super) enum Receipt {
    /// Nothing: QoS 0.
    None,
    V4(v4::ManualAck),
    V5(v5::ManualAck),
}

/// Says things to the broker.
#[derive(Debug, Clone)]
pub(super) enum Client {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

enum Loop {
    V4(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// Hears the broker. The connection lives as long as this.
pub(super) struct Events {
    client: Client,
    turning: Loop,
    owed: VecDeque<Receipt>,
}

/// Prepares a connection; the first [`Events::next`] makes it.
pub(super) fn connect(version: MqttVersion, login: Login) -> (Client, Events) {
    let (client, turning) = match version {
        MqttVersion::V3 => {
            let silence = u64::from(login.keep_alive_seconds);
            let (client, mut events) = v4::AsyncClient::builder(options_v4(login)).capacity(OUTBOUND).build();
            let mut network = v4::NetworkOptions::new();
            network.set_connection_timeout(silence);
            network.set_tcp_nodelay(true);
            events.set_network_options(network);
            (Client::V4(client), Loop::V4(Box::new(events)))
        }
        MqttVersion::V5 => {
            let (client, events) = v5::AsyncClient::builder(options_v5(login)).capacity(OUTBOUND).build();
            (Client::V5(client), Loop::V5(Box::new(events)))
        }
    };
    (client.clone(), Events { client, turning, owed: VecDeque::new() })
}

fn options_v4(login: Login) -> v4::MqttOptions {
    let mut options = v4::MqttOptions::new(login.client_id, (login.host, login.port));
    options.set_clean_session(true);
    options.set_keep_alive(login.keep_alive_seconds);
    options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
    options.set_ack_mode(v4::AckMode::Manual);
    if let Some(tls) = login.tls {
        options.set_transport(v4::Transport::tls_with_config(v4::TlsConfiguration::Rustls(tls)));
    }
    match login.user {
        Some((user, Some(password))) => options.set_credentials(user, password),
        Some((user, None)) => options.set_username(user),
        None => &mut options,
    };
    options
}

fn options_v5(login: Login) -> v5::MqttOptions {
    let mut options = v5::MqttOptions::new(login.client_id, (login.host, login.port));
    let mut network = v5::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options.set_clean_start(true);
    options.set_keep_alive(login.keep_alive_seconds);
    options.set_connect_timeout(Duration::from_secs(u64::from(login.keep_alive_seconds)));
    options.set_max_packet_size(u32::try_from(MAX_PACKET).ok());
    // Then the broker keeps what finds no room here, instead of us throwing it away.
    options.set_receive_maximum(u16::try_from(INBOUND).ok());
    options.set_ack_mode(v5::AckMode::Manual);
    if let Some(tls) = login.tls {
        options.set_transport(v5::Transport::tls_with_config(v5::TlsConfiguration::Rustls(tls)));
    }
    match login.user {
        Some((user, Some(password))) => options.set_credentials(user, password),
        Some((user, None)) => options.set_username(user),
        None => &mut options,
    };
    options
}

impl Client {
    /// Publishes with QoS 1, not retained. Waits for room.
    pub(super) async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), Ended> {
        match self {
            Self::V4(client) => {
                let options = v4::PublishOptions::new(v4::QoS::AtLeastOnce);
                client.publish(topic, payload, options).await.map_err(|_| Ended::Closed)
            }
            Self::V5(client) => {
                let options = v5::PublishOptions::new(v5::QoS::AtLeastOnce);
                client.publish(topic, payload, options).await.map_err(|_| Ended::Closed)
            }
        }
    }

    /// Subscribes with QoS 1, and waits until the broker has agreed.
    pub(super) async fn subscribe(&self, filters: &[String]) -> Result<(), Ended> {
        let granted: Vec<bool> = match self {
            Self::V4(client) => {
                let asked = filters.iter().map(|f| v4::SubscribeFilterInput::new(f, v4::QoS::AtLeastOnce));
                let notice = client.subscribe_many_tracked(asked).await.map_err(|_| Ended::Closed)?;
                let codes = notice.wait_async().await.map_err(|_| Ended::Closed)?.return_codes;
                codes.iter().map(|code| matches!(code, v4::SubscribeReasonCode::Success(_))).collect()
            }
            Self::V5(client) => {
                let asked = filters.iter().map(|f| v5::SubscribeFilterInput::new(f, v5::QoS::AtLeastOnce));
                let notice = client.subscribe_many_tracked(asked).await.map_err(|_| Ended::Closed)?;
                let codes = notice.wait_async().await.map_err(|_| Ended::Closed)?.return_codes;
                codes.iter().map(|code| matches!(code, v5::SubscribeReasonCode::Success(_))).collect()
            }
        };
        match filters.iter().zip(granted).find(|(_, granted)| !granted) {
            Some((filter, _)) => Err(Ended::Subscription(filter.clone())),
            None => Ok(()),
        }
    }

    /// Acknowledges a message. Waits for room.
    pub(super) async fn settle(&self, receipt: Receipt) -> Result<(), Ended> {
        match (self, receipt) {
            (Self::V4(client), Receipt::V4(ack)) => client.manual_ack(ack).await.map_err(|_| Ended::Closed),
            (Self::V5(client), Receipt::V5(ack)) => client.manual_ack(ack).await.map_err(|_| Ended::Closed),
            _ => Ok(()),
        }
    }

    fn try_settle(&self, receipt: &Receipt) -> bool {
        match (self, receipt) {
            (Self::V4(client), Receipt::V4(ack)) => client.try_manual_ack(ack.clone()).is_ok(),
            (Self::V5(client), Receipt::V5(ack)) => client.try_manual_ack(ack.clone()).is_ok(),
            _ => true,
        }
    }
}

impl Events {
    /// The next message; `None`: something else happened.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Ended> {
        while self.owed.front().is_some_and(|receipt| self.client.try_settle(receipt)) {
            self.owed.pop_front();
        }
        match (&mut self.turning, &self.client) {
            (Loop::V4(events), Client::V4(client)) => match events.poll().await {
                Ok(v4::Event::Incoming(v4::Incoming::Publish(publish))) => Ok(Some(Message {
                    receipt: client.prepare_ack(&publish).map_or(Receipt::None, Receipt::V4),
                    topic: publish.topic,
                    payload: publish.payload,
                    retained: publish.retain,
                })),
                Ok(_) => Ok(None),
                Err(error) => Err(Ended::Connection(Box::new(error))),
            },
            (Loop::V5(events), Client::V5(client)) => match events.poll().await {
                Ok(v5::Event::Incoming(v5::Incoming::Publish(publish))) => Ok(Some(Message {
                    receipt: client.prepare_ack(&publish).map_or(Receipt::None, Receipt::V5),
                    topic: publish.topic,
                    payload: publish.payload,
                    retained: publish.retain,
                })),
                Ok(_) => Ok(None),
                Err(error) => Err(Ended::Connection(Box::new(error))),
            },
            _ => Err(Ended::Closed),
        }
    }

    /// Acknowledges a message without waiting.
    pub(super) fn settle(&mut self, receipt: Receipt) {
        self.owed.push_back(receipt);
    }
}
