//! Reviews: questions about identities and permissions that are answered and not stored.
//!
//! Called by dispatch for `create` on review resources. Invariant: a review answers what the server itself
//! would decide. Limits: none beyond the body. Stateless.

use crate::auth::{Attributes, User, rules_of};
use crate::call::Call;
use crate::http::{Reply, created};
use crate::subresources;
use serde_json::{Value, json};
use skerry_apimachinery::ApiError;
use skerry_apimachinery::json::{as_map, list_at, set, str_at};

pub(crate) async fn review(call: &mut Call) -> Result<Reply, ApiError> {
    if call.resource.kind == "Binding" {
        return subresources::binding(call).await;
    }
    let mut body = call.decode_body()?;
    let status = match call.resource.kind.as_str() {
        "SelfSubjectReview" => json!({"userInfo": user_info(&call.user)}),
        "TokenReview" => token_review(call, &body),
        "SelfSubjectAccessReview" => access(call, &call.user, &body),
        "SubjectAccessReview" | "LocalSubjectAccessReview" => {
            let groups: Vec<&str> = list_at(&body, "/spec/groups").iter().filter_map(Value::as_str).collect();
            let user = User::new(str_at(&body, "/spec/user"), &groups);
            access(call, &user, &body)
        }
        "SelfSubjectRulesReview" => {
            rules_of(&call.api.rbac, &call.user, str_at(&body, "/spec/namespace"), &call.api.storage)
        }
        _ => return Err(ApiError::NoSuchPath),
    };
    let map = as_map(&mut body);
    map.insert("kind".into(), call.resource.kind.clone().into());
    map.insert("apiVersion".into(), call.resource.api_version().into());
    set(&mut body, &[], "status", status);
    if body.get("metadata").is_none_or(Value::is_null) {
        set(&mut body, &[], "metadata", json!({"creationTimestamp": null}));
    }
    Ok(created(body))
}

fn user_info(user: &User) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        set(&mut info, &[], "uid", user.uid.clone());
    }
    info
}

fn token_review(call: &Call, body: &Value) -> Value {
    let audiences: Vec<String> =
        list_at(body, "/spec/audiences").iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    match call.api.tokens.verify(str_at(body, "/spec/token"), &call.api.storage, call.now, Some(&audiences)) {
        Ok(claims) => {
            let known: Vec<String> = if audiences.is_empty() {
                vec![call.api.tokens.issuer().to_owned()]
            } else {
                audiences.into_iter().filter(|a| claims.aud.contains(a)).collect()
            };
            let mut info = user_info(&claims.user());
            let mut extra = json!({"authentication.kubernetes.io/credential-id": [format!("JTI={}", claims.jti)]});
            if let Some(pod) = &claims.kubernetes.pod {
                set(&mut extra, &[], "authentication.kubernetes.io/pod-name", vec![pod.name.clone()]);
                set(&mut extra, &[], "authentication.kubernetes.io/pod-uid", vec![pod.uid.clone()]);
            }
            set(&mut info, &[], "extra", extra);
            json!({"authenticated": true, "user": info, "audiences": known})
        }
        Err(error) => json!({"authenticated": false, "error": error}),
    }
}

fn access(call: &Call, user: &User, body: &Value) -> Value {
    let wanted = if let Some(path) = body.pointer("/spec/nonResourceAttributes").filter(|v| !v.is_null()) {
        Attributes {
            verb: str_at(path, "/verb").to_owned(),
            path: Some(str_at(path, "/path").to_owned()),
            ..Attributes::default()
        }
    } else {
        let text = |field: &str| str_at(body, &format!("/spec/resourceAttributes/{field}")).to_owned();
        Attributes {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
            path: None,
        }
    };
    let allowed = call.api.rbac.allows(user, &wanted, &call.api.storage);
    if allowed { json!({"allowed": true}) } else { json!({"allowed": false, "reason": "no rule allows it"}) }
}
