//! The real kubectl against the server: the one on the PATH, and Debian 12's (1.20) where
//! `scripts/install-tools test` has unpacked it. Skipped with a note when there is none.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod support;

use support::Cluster;

const APP: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: "busybox:1.36", resources: {limits: {cpu: "1"}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: solo}
spec: {containers: [{name: c, image: busybox}]}
"#;

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.size, statusReplicasPath: .status.size}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"#;

#[test]
fn objects_from_apply_to_delete() {
    for c in Cluster::each() {
        c.ok("version", if c.minor < 28 { "GitVersion:\"v1.33" } else { "Server Version: v1.33" });
        c.ok("api-resources", "deployments");
        c.ok_with("apply -f -", Some(APP), "deployment.apps/web created");
        c.ok_with("apply -f -", Some(APP), "deployment.apps/web unchanged");
        c.ok("get all", "deployment.apps/web   0/2");
        c.ok("get pods -o wide", "NOMINATED NODE");
        c.ok("get pod solo -o yaml", "serviceAccountName: default");
        c.ok("get deploy web -o jsonpath={.spec.strategy.rollingUpdate.maxSurge}", "25%");
        c.ok("describe pod solo", "QoS Class:                   BestEffort");
        c.ok("describe deployment web", "RollingUpdateStrategy:  25% max unavailable, 25% max surge");
        c.ok("describe service web", if c.minor < 28 { "IPv4" } else { "IP Families:              IPv4" });
        c.ok("label pod solo tier=front", "labeled");
        c.ok("annotate pod solo note=x", "annotated");
        c.ok("get pods -l tier=front --show-labels", "tier=front");
        c.ok("get pods -l tier!=front", "No resources found");
        c.ok("scale deployment web --replicas=3", "scaled");
        c.ok("set image deployment/web c=busybox:1.37", "image updated");
        c.ok("get deployment web -o jsonpath={.spec.replicas}/{.spec.template.spec.containers[0].image}/{.metadata.generation}", "3/busybox:1.37/3");
        c.ok(
            "patch deployment web --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]",
            "patched",
        );
        c.ok("rollout history deployment/web", "No rollout history found");
        c.ok_with(
            "diff -f -",
            Some("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: blue}}"),
            "",
        );
        c.ok_with(
            "replace -f -",
            Some("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: red}}"),
            "replaced",
        );
        c.ok("get cm settings -o jsonpath={.data.color}", "red");
        c.ok("get cm --watch-only --request-timeout=1s -o name", "");
        c.ok_with("delete -f -", Some(APP), "pod \"solo\" deleted");
        c.fails_with("get deployment web", None, "deployments.apps \"web\" not found");
    }
}

#[test]
fn typed_clients_send_protobuf() {
    for c in Cluster::each() {
        c.ok("create namespace team", "namespace/team created");
        c.ok("create deployment web --image=busybox:1 --replicas=2 -n team", "created");
        c.ok(
        "get deployment web -n team -o jsonpath={.spec.replicas}/{.spec.template.spec.containers[0].imagePullPolicy}",
        "2/IfNotPresent",
    );
        c.ok("create configmap c --from-literal=a=b", "created");
        c.ok("create secret generic s --from-literal=a=b", "created");
        c.ok("get secret s -o jsonpath={.type}/{.data.a}", "Opaque/Yg==");
        c.ok("create serviceaccount bob", "created");
        if c.minor >= 24 {
            c.ok("create token bob --duration=20m", "ey");
        }
        c.ok("create role reader --verb=get,list --resource=pods", "created");
        c.ok("create rolebinding bob --role=reader --serviceaccount=default:bob", "created");
        c.ok("create service clusterip front --tcp=80:8080", "created");
        c.ok("create job once --image=busybox", "created");
        c.ok("auth can-i create pods", "yes");
        c.ok("auth can-i list pods --as=system:serviceaccount:default:bob", "yes");
        c.fails_with("auth can-i delete pods --as=system:serviceaccount:default:bob", None, "no");
        if c.minor >= 27 {
            c.ok("auth whoami", "skerry:admin");
        }
        c.ok("auth can-i --list", "*.*");
    }
}

#[test]
fn server_side_apply_conflicts_and_force() {
    for c in Cluster::each() {
        let config = |color: &str| {
            format!("{{apiVersion: v1, kind: ConfigMap, metadata: {{name: s}}, data: {{color: {color}}}}}")
        };
        c.ok_with("apply --server-side -f -", Some(&config("blue")), "serverside-applied");
        c.fails_with(
            "apply --server-side --field-manager=other -f -",
            Some(&config("red")),
            "conflict with \"kubectl\"",
        );
        c.ok_with(
            "apply --server-side --field-manager=other --force-conflicts -f -",
            Some(&config("red")),
            "serverside-applied",
        );
        c.ok("get cm s -o jsonpath={.data.color}", "red");
        c.ok_with("apply --server-side --dry-run=server -f -", Some(&config("red")), "server dry run");
    }
}

#[test]
fn mistakes_get_clear_answers() {
    for c in Cluster::each() {
        let pod = |spec: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {spec}}}");
        let unknown = pod("{containers: [{name: c, image: x, imagePolicy: Never}]}");
        if c.minor < 25 {
            // It cannot ask for a refusal, so the server warns.
            c.ok_with("apply -f -", Some(&unknown), "spec.containers[0].imagePolicy");
        } else {
            c.fails_with("apply -f -", Some(&unknown), "unknown field \"spec.containers[0].imagePolicy\"");
            c.ok_with("apply --validate=false -f -", Some(&unknown), "created");
        }
        c.ok("delete pod p", "deleted");
        c.fails_with(
            "create -f -",
            Some(&pod("{containers: [{name: c}]}")),
            "spec.containers[0].image: Required value",
        );
        c.fails_with(
            "create -f -",
            Some(&pod("{containers: [{name: c, image: x}], restartPolicy: Maybe}")),
            "supported values: \"Always\"",
        );
        c.fails_with("create -f -", Some(&pod("{containers: [{name: c, image: x}], priority: high}")), "invalid type");
        c.fails_with("create namespace Bad_Name", None, "RFC 1123 label");
        c.ok("run p --image=busybox", "created");
        c.fails_with("patch pod p -p {\"spec\":{\"nodeName\":\"n\"}}", None, "pod updates may not change fields");
        c.fails_with("get nonsense", None, "the server doesn't have a resource type");
        c.fails_with("get pods --field-selector=spec.image=x", None, "field label not supported");
        c.fails_with("create deployment d --image=x -n missing", None, "namespaces \"missing\" not found");
    }
}

#[test]
fn nodes_and_custom_resources() {
    for c in Cluster::each() {
        c.ok_with("create -f -", Some("{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {conditions: [{type: Ready, status: \"True\"}]}}"), "created");
        c.ok("get nodes", "n1     Ready");
        c.ok("cordon n1", "cordoned");
        c.ok("get nodes", "Ready,SchedulingDisabled");
        c.ok("uncordon n1", "uncordoned");
        c.ok("taint node n1 a=b:NoSchedule", "tainted");
        c.ok("get node n1 -o jsonpath={.spec.taints[0].key}", "a");
        c.ok("drain n1 --ignore-daemonsets", "drained");
        c.ok_with("apply -f -", Some(CRD), "created");
        c.ok("wait --for=condition=Established crd/widgets.example.com", "condition met");
        let widget = "{apiVersion: example.com/v1, kind: Widget, metadata: {name: w}, spec: {size: 3}}";
        c.ok_with("apply -f -", Some(widget), "widget.example.com/w created");
        c.ok_with("apply -f -", Some(widget), "unchanged");
        c.ok("get wd", "w      3");
        c.ok("scale widget w --replicas=5", "scaled");
        c.ok("get widget w -o jsonpath={.spec.size}/{.metadata.generation}", "5/2");
        if c.minor >= 24 {
            c.ok("patch widget w --subresource=status --type=merge -p {\"status\":{\"size\":5}}", "patched");
            c.ok("get widget w -o jsonpath={.status.size}/{.metadata.generation}", "5/2");
        }
        c.ok("delete crd widgets.example.com", "deleted");
        // The objects went with their definition.
        c.ok_with("apply -f -", Some(CRD), "created");
        c.ok("get wd", "No resources found");
        c.ok("delete crd widgets.example.com", "deleted");
        // kubectl still has the discovery documents from before.
        c.fails_with("get wd", None, "the server could not find the requested resource");
        assert!(c.process.dir.exists());
    }
}
