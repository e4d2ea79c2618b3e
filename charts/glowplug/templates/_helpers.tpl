{{/* Name of the chart, or what the user calls it. */}}
{{- define "glowplug.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of what belongs to the release as a whole. */}}
{{- define "glowplug.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "glowplug.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "glowplug.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Labels of everything that the chart makes. */}}
{{- define "glowplug.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: neon
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* What selects one compute: never an id, a version or a hash, since selectors cannot change. */}}
{{- define "glowplug.compute.selector" -}}
app.kubernetes.io/name: neon-compute
app.kubernetes.io/instance: {{ .compute.name }}
app.kubernetes.io/component: compute
{{- end }}

{{- define "glowplug.compute.labels" -}}
{{ include "glowplug.compute.selector" . }}
{{ include "glowplug.labels" .root }}
glowplug.dev/tenant-id: {{ .compute.spec.tenantId | quote }}
glowplug.dev/timeline-id: {{ .compute.spec.timelineId | quote }}
glowplug.dev/mode: {{ .compute.spec.mode | default "Primary" | lower }}
{{- end }}

{{/* Name of a compute's service account, Role and Deployment. */}}
{{- define "glowplug.compute.account" -}}
{{- printf "compute-%s" .compute.name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Reference of an image: registry, repository, and digest or tag. */}}
{{- define "glowplug.image" -}}
{{- $image := mustMergeOverwrite (deepCopy .root.Values.image) (.compute.image | default dict) }}
{{- if $image.registry }}{{ $image.registry }}/{{ end }}{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Names of the Secrets that a spec refers to, wherever it does; one a line. */}}
{{- define "glowplug.secretNames" -}}
{{- if kindIs "map" . }}
{{- range $key, $value := . }}
{{- if or (eq $key "secretKeyRef") (eq $key "tokenSecretRef") }}
{{- if kindIs "map" $value }}
{{ $value.name }}
{{- end }}
{{- else }}
{{- include "glowplug.secretNames" $value }}
{{- end }}
{{- end }}
{{- else if kindIs "slice" . }}
{{- range . }}
{{- include "glowplug.secretNames" . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Port that postgres listens on. */}}
{{- define "glowplug.compute.port" -}}
{{- dig "postgres" "port" 5432 .compute.spec }}
{{- end }}

{{/*
Fills `into` with the defaults and what the compute says otherwise. Maps are merged; all else,
0 and an empty list too, takes the place of the default.
*/}}
{{- define "glowplug.compute.settings" -}}
{{- $into := .into }}
{{- range $key, $value := deepCopy .root.Values.computeDefaults }}
{{- $_ := set $into $key $value }}
{{- end }}
{{- range $key, $value := omit .compute "name" "spec" "image" }}
{{- if and (kindIs "map" $value) (kindIs "map" (get $into $key)) }}
{{- $_ := set $into $key (mustMergeOverwrite (get $into $key) $value) }}
{{- else }}
{{- $_ := set $into $key $value }}
{{- end }}
{{- end }}
{{- end }}
