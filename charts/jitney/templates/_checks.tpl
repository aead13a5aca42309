{{- /* What no schema can say. Included once, by the Deployment. */ -}}
{{- define "jitney.checks" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and $scaling.enabled (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- fail (printf "autoscaling.minReplicas is %v, more than autoscaling.maxReplicas, %v" $scaling.minReplicas $scaling.maxReplicas) -}}
{{- end -}}
{{- if has "kube-system" .Values.watchNamespaces -}}
{{- fail "watchNamespaces names kube-system, whose pods never get sidecars" -}}
{{- end -}}
{{- if has .Values.identity.issuer.secretName (list "jitney-authority" "jitney-webhook") -}}
{{- fail (printf "identity.issuer.secretName is %s, which the control plane keeps for itself" .Values.identity.issuer.secretName) -}}
{{- end -}}
{{- if and (eq .Values.injection.mode "Policy") (semverCompare "<1.36.0-0" .Capabilities.KubeVersion.Version) -}}
{{- fail (printf "injection.mode is Policy, which needs Kubernetes 1.36, and this is %s: Webhook does not" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- /* No pod is made of these, and of sidecars all that are to have one would be refused. */ -}}
{{- include "jitney.check.limits" (list "resources" .Values.resources dict) -}}
{{- include "jitney.check.limits" (list "proxy.resources" .Values.proxy.resources (dict "cpu" "10m" "memory" "32Mi")) -}}
{{- /* Where helm has no cluster it knows groups and no kinds: v1/Pod tells that there is one. */ -}}
{{- $has := .Capabilities.APIVersions -}}
{{- if and .Values.requireCRDs ($has.Has "v1/Pod") -}}
{{- range list "BatchPolicy" "Backend" "Runtime" -}}
{{- if not ($has.Has (printf "jitney.dev/v1alpha1/%s" .)) -}}
{{- fail (printf "the cluster does not know the kind %s of jitney.dev/v1alpha1: install the chart jitney-crds first, or one as new as this (requireCRDs=false goes on without)" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* jitney.check.limits (list PATH RESOURCES DEFAULT-REQUESTS): no limit is below what is asked for. */ -}}
{{- define "jitney.check.limits" -}}
{{- $path := index . 0 -}}
{{- $requests := (index . 1).requests | default dict -}}
{{- $defaults := index . 2 -}}
{{- range $name, $limit := (index . 1).limits -}}
{{- $request := get $requests $name | default (get $defaults $name) -}}
{{- if and $limit $request -}}
{{- $numbers := list (include "jitney.number" $limit) (include "jitney.number" $request) -}}
{{- if lt (index $numbers 0 | float64) (index $numbers 1 | float64) -}}
{{- fail (printf "%s.limits.%s is %s, less than %s.requests.%s, %s" $path $name (include "jitney.quantity" $limit) $path $name (include "jitney.quantity" $request)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
