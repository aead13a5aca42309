{{- /* jitney.labels (list CONTEXT COMPONENT): the recommended labels, which win over those of commonLabels. */ -}}
{{- define "jitney.labels" -}}
{{- $root := index . 0 -}}
{{- $own := dict
  "app.kubernetes.io/name" "jitney"
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/component" (index . 1)
  "app.kubernetes.io/part-of" "jitney"
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
-}}
{{- toYaml (mergeOverwrite (deepCopy $root.Values.commonLabels) $own) -}}
{{- end -}}

{{- /* What the replicas' pods have and nobody else. It never changes: a Deployment's selector cannot. */ -}}
{{- define "jitney.selector" -}}
app.kubernetes.io/name: jitney
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: control-plane
{{- end -}}

{{- /* jitney.image (list CONTEXT IMAGE) */ -}}
{{- define "jitney.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.global.imageRegistry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- /* The fewest replicas there are. */ -}}
{{- define "jitney.replicas" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}{{ else }}{{ .Values.replicas }}{{ end -}}
{{- end -}}

{{- /* Whether the Prometheus operator's kinds are there. */ -}}
{{- define "jitney.monitored" -}}
{{- if .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end -}}
{{- end -}}

{{- /* A quantity as text: a number as it was written, where helm would write 1e+09. */ -}}
{{- define "jitney.quantity" -}}
{{- toJson . | trimAll "\"" -}}
{{- end -}}

{{- /* A quantity as a number: what its unit stands for, so often. */ -}}
{{- define "jitney.number" -}}
{{- $text := include "jitney.quantity" . -}}
{{- $unit := regexFind "[A-Za-z]*$" $text -}}
{{- $decimal := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $binary := dict "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 "Ei" 1152921504606846976.0 -}}
{{- mulf (trimSuffix $unit $text | float64) (get (merge $decimal $binary) $unit) -}}
{{- end -}}
