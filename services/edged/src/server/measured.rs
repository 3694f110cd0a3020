//! What the node and its pods use, as `/stats/summary` and as metrics.
//!
//! Names, labels and units of metrics are those of the kubelet (`/metrics/resource`, for metrics-server and
//! `kubectl top`) and of cAdvisor (`/metrics/cadvisor`, for dashboards). What was not measured is left out,
//! never zero. The numbers are collected when they are asked for; see [`crate::stats`].

use std::fmt::Write as _;
use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::answer::{Answer, json, text};
use super::find::Refusal;
use crate::context::Context;
use crate::stats::Detail;
use crate::stats::model::{ContainerStats, CpuStats, MemoryStats, NodeStats, PodReference, PodStats, Summary};

const NANOS: f64 = 1e9;
/// The text format of Prometheus.
const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/stats/summary`; with `only_cpu_and_memory=true` without what must be searched for on the disk.
pub(super) async fn summary(context: &Arc<Context>, query: &str) -> Result<Answer, Refusal> {
    let brief = form_urlencoded::parse(query.as_bytes()).any(|(n, v)| n == "only_cpu_and_memory" && v == "true");
    let detail = if brief { Detail::Usage } else { Detail::Full };
    Ok(json(&*context.stats.summary(context, detail).await?))
}

/// `/metrics/resource`.
pub(super) async fn resource(context: &Arc<Context>) -> Result<Answer, Refusal> {
    Ok(metrics(resource_text(&*context.stats.summary(context, Detail::Usage).await?)))
}

/// `/metrics/cadvisor`.
pub(super) async fn cadvisor(context: &Arc<Context>) -> Result<Answer, Refusal> {
    Ok(metrics(cadvisor_text(&*context.stats.summary(context, Detail::Full).await?)))
}

/// `/metrics/probes`: how often probes succeeded and failed.
pub(super) fn probes(context: &Context) -> Answer {
    const HELP: &str = "Cumulative number of a liveness, readiness or startup probe for a container by result";
    let mut registry = prometheus_client::registry::Registry::default();
    registry.register("prober_probe", HELP, context.metrics.probes.clone());
    let mut lines = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut lines, &registry);
    metrics(lines)
}

pub(super) fn metrics(lines: String) -> Answer {
    let mut answer = text(StatusCode::OK, lines);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(KIND));
    answer
}

/// One metric with its samples.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    lines: String,
}

impl Metric {
    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "counter", help, lines: String::new() }
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, kind: "gauge", help, lines: String::new() }
    }

    fn add(&mut self, labels: &str, value: Option<f64>, time: Option<&Time>) {
        let Some(value) = value else { return };
        let _ = write!(self.lines, "{}", self.name);
        if !labels.is_empty() {
            let _ = write!(self.lines, "{{{labels}}}");
        }
        let _ = write!(self.lines, " {value}");
        if let Some(time) = time {
            let _ = write!(self.lines, " {}", time.0.as_millisecond());
        }
        self.lines.push('\n');
    }

    fn text(&self, out: &mut String) {
        if !self.lines.is_empty() {
            let _ = write!(out, "# HELP {0} {1}\n# TYPE {0} {2}\n{3}", self.name, self.help, self.kind, self.lines);
        }
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect::<Vec<_>>().join(",")
}

fn seconds(cpu: Option<&CpuStats>) -> Option<f64> {
    cpu?.usage_core_nano_seconds.map(|nanos| number(nanos) / NANOS)
}

fn working_set(memory: Option<&MemoryStats>) -> Option<f64> {
    memory?.working_set_bytes.map(number)
}

#[expect(clippy::cast_precision_loss, reason = "metrics are floating point numbers")]
fn number(value: u64) -> f64 {
    value as f64
}

fn start(time: Option<&Time>) -> Option<f64> {
    time.map(|time| std::time::Duration::from_millis(u64::try_from(time.0.as_millisecond()).unwrap_or(0)).as_secs_f64())
}

fn all_containers(summary: &Summary) -> impl Iterator<Item = (&PodReference, &ContainerStats)> {
    summary.pods.iter().flat_map(|pod| pod.containers.iter().map(move |c| (&pod.pod_ref, c)))
}

fn resource_text(summary: &Summary) -> String {
    let mut container_cpu = Metric::counter(
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    let mut container_memory =
        Metric::gauge("container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes");
    let mut container_start = Metric::gauge(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    let mut container_swap = Metric::gauge(
        "container_swap_usage_bytes",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    for (pod, c) in all_containers(summary) {
        let labels = labels(&[("container", &c.name), ("namespace", &pod.namespace), ("pod", &pod.name)]);
        container_cpu.add(&labels, seconds(c.cpu.as_ref()), c.cpu.as_ref().and_then(|m| m.time.as_ref()));
        let time = c.memory.as_ref().and_then(|m| m.time.as_ref());
        container_memory.add(&labels, working_set(c.memory.as_ref()), time);
        container_start.add(&labels, start(c.start_time.as_ref()), None);
        let swap = c.swap.as_ref();
        let used = swap.and_then(|s| s.swap_usage_bytes).map(number);
        container_swap.add(&labels, used, swap.and_then(|s| s.time.as_ref()));
    }
    let NodeStats { cpu, memory, .. } = &summary.node;
    let mut node_cpu = Metric::counter(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    node_cpu.add("", seconds(cpu.as_ref()), cpu.as_ref().and_then(|m| m.time.as_ref()));
    let mut node_memory =
        Metric::gauge("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes");
    node_memory.add("", working_set(memory.as_ref()), memory.as_ref().and_then(|m| m.time.as_ref()));
    let mut pod_cpu = Metric::counter(
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    let mut pod_memory =
        Metric::gauge("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes");
    for PodStats { pod_ref, cpu, memory, .. } in &summary.pods {
        let labels = labels(&[("namespace", &pod_ref.namespace), ("pod", &pod_ref.name)]);
        pod_cpu.add(&labels, seconds(cpu.as_ref()), cpu.as_ref().and_then(|m| m.time.as_ref()));
        pod_memory.add(&labels, working_set(memory.as_ref()), memory.as_ref().and_then(|m| m.time.as_ref()));
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    let mut error = Metric::gauge("resource_scrape_error", help);
    error.add("", Some(0.0), None);
    let mut out = String::new();
    for metric in [
        container_cpu,
        container_memory,
        container_start,
        container_swap,
        node_cpu,
        node_memory,
        pod_cpu,
        pod_memory,
        error,
    ] {
        metric.text(&mut out);
    }
    out
}

fn cadvisor_text(summary: &Summary) -> String {
    let mut cpu = Metric::counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.");
    let mut usage = Metric::gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
    );
    let mut set = Metric::gauge("container_memory_working_set_bytes", "Current working set in bytes.");
    let mut rss = Metric::gauge("container_memory_rss", "Size of RSS in bytes.");
    let mut fs = Metric::gauge(
        "container_fs_usage_bytes",
        "Number of bytes that are consumed by the container on this filesystem.",
    );
    let mut began =
        Metric::gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.");
    for (pod, c) in all_containers(summary) {
        let own = [
            ("container", c.name.as_str()),
            ("id", &c.id),
            ("image", &c.image),
            ("name", &c.id),
            ("namespace", &pod.namespace),
            ("pod", &pod.name),
        ];
        let plain = labels(&own);
        let memory = c.memory.as_ref();
        let time = memory.and_then(|m| m.time.as_ref());
        let total = format!("{plain},cpu=\"total\"");
        cpu.add(&total, seconds(c.cpu.as_ref()), c.cpu.as_ref().and_then(|m| m.time.as_ref()));
        usage.add(&plain, memory.and_then(|m| m.usage_bytes).map(number), time);
        set.add(&plain, working_set(memory), time);
        rss.add(&plain, memory.and_then(|m| m.rss_bytes).map(number), time);
        let root = c.rootfs.as_ref();
        fs.add(&plain, root.and_then(|f| f.used_bytes).map(number), root.and_then(|f| f.time.as_ref()));
        began.add(&plain, start(c.start_time.as_ref()), None);
    }
    let counted = |name, help| Metric::counter(name, help);
    let mut received = counted("container_network_receive_bytes_total", "Cumulative count of bytes received");
    let mut sent = counted("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted");
    let mut receive_errors =
        counted("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving");
    let mut send_errors =
        counted("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting");
    for pod in &summary.pods {
        let Some(network) = &pod.network else { continue };
        for interface in &network.interfaces {
            let labels = labels(&[
                ("interface", &interface.name),
                ("namespace", &pod.pod_ref.namespace),
                ("pod", &pod.pod_ref.name),
            ]);
            let time = network.time.as_ref();
            received.add(&labels, Some(number(interface.rx_bytes)), time);
            sent.add(&labels, Some(number(interface.tx_bytes)), time);
            receive_errors.add(&labels, Some(number(interface.rx_errors)), time);
            send_errors.add(&labels, Some(number(interface.tx_errors)), time);
        }
    }
    let mut out = String::new();
    for metric in [cpu, usage, set, rss, fs, began, received, sent, receive_errors, send_errors] {
        metric.text(&mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::stats::model::{InterfaceStats, NetworkStats};

    fn summary() -> Summary {
        let time = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
        let cpu =
            |nanos| Some(CpuStats { time: time.clone(), usage_core_nano_seconds: Some(nanos), ..CpuStats::default() });
        let memory =
            |bytes| Some(MemoryStats { time: time.clone(), working_set_bytes: Some(bytes), ..MemoryStats::default() });
        let eth0 = InterfaceStats { name: "eth0".into(), rx_bytes: 7, ..InterfaceStats::default() };
        let measured = ContainerStats {
            name: "c".into(),
            start_time: time.clone(),
            cpu: cpu(1_500_000_000),
            memory: memory(4096),
            image: "a\"b".into(),
            ..ContainerStats::default()
        };
        let dark = ContainerStats { name: "dark".into(), ..ContainerStats::default() };
        Summary {
            node: NodeStats { cpu: cpu(2_000_000_000), memory: memory(8192), ..NodeStats::default() },
            pods: vec![PodStats {
                pod_ref: PodReference { name: "p".into(), namespace: "ns".into(), uid: "u".into() },
                containers: vec![measured, dark],
                cpu: cpu(1_600_000_000),
                network: Some(NetworkStats { interfaces: vec![eth0], ..NetworkStats::default() }),
                ..PodStats::default()
            }],
        }
    }

    #[test]
    fn metrics_of_resources() {
        let text = resource_text(&summary());
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 1767225600000",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 4096 1767225600000",
            "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1767225600",
            "node_cpu_usage_seconds_total 2 1767225600000",
            "node_memory_working_set_bytes 8192 1767225600000",
            "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"p\"} 1.6 1767225600000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("dark") && !text.contains("swap") && !text.contains("pod_memory"), "{text}");
    }

    #[test]
    fn metrics_of_containers() {
        let text = cadvisor_text(&summary());
        for part in [
            "container_cpu_usage_seconds_total{container=\"c\",id=\"\",image=\"a\\\"b\",",
            "pod=\"p\",cpu=\"total\"} 1.5 ",
            "container_network_receive_bytes_total{interface=\"eth0\",namespace=\"ns\",pod=\"p\"} 7\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
