//! Quantities, quality-of-service classes, and what they mean for control groups. Pure.
//!
//! Used when containers and sandboxes are configured, by the status, by downward API fields and by
//! the node's capacity. Formulas and limits are the kubelet's. A quantity that cannot be read counts
//! as absent: the API server has checked it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skerry_proto::cri::v1::LinuxContainerResources;

use crate::pod::spec::{PodExt, is_sidecar};

/// The kernel's smallest share and smallest quota, and the period of a quota in µs.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA_US: i64 = 1_000;
const PERIOD_US: i64 = 100_000;

/// A quantity in thousandths: enough for CPU, and exact for bytes.
pub(crate) fn milli(quantity: &Quantity) -> Option<i128> {
    let text = quantity.0.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(digits)?;
    // 1e3 and 1E3 are exponents, 1E is exa.
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']).filter(|e| !e.is_empty()) {
        let exponent: i32 = exponent.parse().ok()?;
        let value: f64 = number.parse().ok()?;
        let value = value * 10_f64.powi(exponent) * 1000.0;
        #[allow(clippy::cast_possible_truncation, reason = "clamped to what a quantity can be")]
        return value.is_finite().then(|| value.clamp(-1e30, 1e30) as i128);
    }
    let (multiplier, divisor): (i128, i128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1_000),
        "k" => (1_000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let negative = whole.starts_with('-');
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let units = whole.checked_mul(scale)?.checked_add(if negative { -fraction } else { fraction })?;
    let numerator = units.checked_mul(multiplier)?.checked_mul(1000)?;
    let divisor = scale.checked_mul(divisor)?;
    // Rounded up, as everywhere with quantities.
    Some(numerator.div_euclid(divisor) + i128::from(numerator.rem_euclid(divisor) != 0))
}

/// A quantity in whole units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    let milli = milli(quantity)?;
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).ok()
}

/// Quality-of-service class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn amount(container: &Container, limit: bool, name: &str) -> Option<i128> {
    let resources = container.resources.as_ref()?;
    let map = if limit { resources.limits.as_ref() } else { resources.requests.as_ref() };
    map?.get(name).and_then(milli).filter(|v| *v > 0)
}

/// A request, which defaults to the limit.
fn request(container: &Container, name: &str) -> Option<i128> {
    amount(container, false, name).or_else(|| amount(container, true, name))
}

/// The class of a pod: Guaranteed when every container has equal CPU and memory requests and limits,
/// BestEffort when none has any.
pub(crate) fn qos(pod: &Pod) -> Qos {
    let all = || pod.containers().iter().chain(pod.init_containers());
    let any =
        all().any(|c| ["cpu", "memory"].iter().any(|r| amount(c, true, r).is_some() || amount(c, false, r).is_some()));
    if !any {
        return Qos::BestEffort;
    }
    let equal = all()
        .all(|c| ["cpu", "memory"].iter().all(|r| amount(c, true, r).is_some() && request(c, r) == amount(c, true, r)));
    if equal { Qos::Guaranteed } else { Qos::Burstable }
}

fn shares(milli_cpu: i128) -> i64 {
    let shares = milli_cpu.saturating_mul(1024) / 1000;
    i64::try_from(shares).unwrap_or(MAX_SHARES).clamp(MIN_SHARES, MAX_SHARES)
}

fn quota(milli_cpu: i128) -> i64 {
    let quota = milli_cpu.saturating_mul(i128::from(PERIOD_US)) / 1000;
    i64::try_from(quota).unwrap_or(i64::MAX).max(MIN_QUOTA_US)
}

/// The limits of one container. `memory_capacity` is the node's, in bytes.
pub(crate) fn of_container(pod: &Pod, container: &Container, memory_capacity: i64) -> LinuxContainerResources {
    let limit = amount(container, true, "cpu");
    let memory = amount(container, true, "memory").map_or(0, |m| i64::try_from(m / 1000).unwrap_or(i64::MAX));
    LinuxContainerResources {
        cpu_shares: shares(request(container, "cpu").unwrap_or(0)),
        cpu_period: if limit.is_some() { PERIOD_US } else { 0 },
        cpu_quota: limit.map_or(0, quota),
        memory_limit_in_bytes: memory,
        // Without swap for containers: the limit of memory and swap together is the same.
        memory_swap_limit_in_bytes: memory,
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        ..LinuxContainerResources::default()
    }
}

/// The sum over the containers, for the sandbox.
pub(crate) fn of_pod(pod: &Pod) -> LinuxContainerResources {
    let sum = |limit: bool, name: &str| -> Option<i128> {
        let mut total = Some(0_i128);
        for c in pod.containers().iter().chain(pod.init_containers().iter().filter(|c| is_sidecar(c))) {
            let value = if limit { amount(c, true, name) } else { Some(request(c, name).unwrap_or(0)) };
            total = total.zip(value).map(|(a, b)| a.saturating_add(b));
        }
        total
    };
    let limit = sum(true, "cpu");
    LinuxContainerResources {
        cpu_shares: shares(sum(false, "cpu").unwrap_or(0)),
        cpu_period: if limit.is_some() { PERIOD_US } else { 0 },
        cpu_quota: limit.map_or(0, quota),
        memory_limit_in_bytes: sum(true, "memory").map_or(0, |m| i64::try_from(m / 1000).unwrap_or(0)),
        ..LinuxContainerResources::default()
    }
}

fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let critical = pod.spec().priority.is_some_and(|p| p >= 2_000_000_000);
    match qos(pod) {
        _ if critical => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = request(container, "memory").map_or(0, |m| m / 1000);
            let capacity = i128::from(memory_capacity.max(1));
            let adjust = 1000 - (1000 * request) / capacity;
            // Above a guaranteed pod, below a pod that asks for nothing.
            i64::try_from(adjust).unwrap_or(999).clamp(3, 999)
        }
    }
}

/// Requests and limits by `resourceFieldRef`'s names, in units of the divisor, rounded up.
pub(crate) fn field(
    container: &Container,
    resource: &str,
    divisor: Option<&Quantity>,
    allocatable: &BTreeMap<String, Quantity>,
) -> Option<String> {
    let (kind, name) = resource.split_once('.')?;
    let value = match kind {
        // A container without a limit may use all of the node.
        "limits" => amount(container, true, name).or_else(|| allocatable.get(name).and_then(milli))?,
        "requests" => request(container, name).unwrap_or(0),
        _ => return None,
    };
    let divisor = divisor.and_then(milli).filter(|d| *d > 0).unwrap_or(1000);
    Some((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn q(text: &str) -> Quantity {
        Quantity(text.into())
    }

    #[test]
    fn quantities_are_read() {
        for (text, want) in [
            ("1", 1000),
            ("100m", 100),
            ("1.5", 1500),
            ("0.1", 100),
            ("1Ki", 1_024_000),
            ("64Mi", 67_108_864_000),
            ("1e3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1u", 1),
            ("-1", -1000),
        ] {
            assert_eq!(milli(&q(text)), Some(want), "{text}");
        }
        for bad in ["", "x", "1x", "1.2.3", "--1"] {
            assert!(milli(&q(bad)).is_none_or(|v| bad.is_empty() && v == 0), "{bad}");
        }
        assert_eq!(units(&q("1500m")), Some(2));
    }

    fn pod(resources: &serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {}, "spec": { "containers": [{ "name": "a", "resources": resources }] }
        }))
        .unwrap()
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        let cases = [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable"),
            (json!({"limits": {"memory": "1Gi"}}), "Burstable"),
        ];
        for (resources, want) in cases {
            assert_eq!(qos(&pod(&resources)).name(), want, "{resources}");
        }
    }

    #[test]
    fn control_groups_get_the_kubelets_numbers() {
        let pod =
            pod(&json!({"limits": {"cpu": "500m", "memory": "32Mi"}, "requests": {"cpu": "10m", "memory": "8Mi"}}));
        let got = of_container(&pod, &pod.containers()[0], 1 << 30);
        assert_eq!((got.cpu_shares, got.cpu_quota, got.cpu_period), (10, 50_000, 100_000));
        assert_eq!(got.memory_limit_in_bytes, 32 << 20);
        assert_eq!(got.oom_score_adj, 1000 - 7);
        let none = super::tests::pod(&json!({}));
        let got = of_container(&none, &none.containers()[0], 1 << 30);
        assert_eq!((got.cpu_shares, got.cpu_quota, got.memory_limit_in_bytes, got.oom_score_adj), (2, 0, 0, 1000));
    }

    #[test]
    fn fields_are_divided_and_rounded_up() {
        let pod = pod(&json!({"limits": {"cpu": "1500m", "memory": "1Mi"}}));
        let c = &pod.containers()[0];
        let none = BTreeMap::new();
        assert_eq!(field(c, "limits.cpu", None, &none).unwrap(), "2");
        assert_eq!(field(c, "limits.cpu", Some(&q("1m")), &none).unwrap(), "1500");
        assert_eq!(field(c, "requests.memory", Some(&q("1Ki")), &none).unwrap(), "1024");
        assert_eq!(field(c, "limits.ephemeral-storage", None, &none), None);
    }
}
