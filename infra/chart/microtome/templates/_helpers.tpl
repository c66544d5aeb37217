{{- define "microtome.name" -}}
{{- if contains "microtome" .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-microtome" .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What finds the pods of a part: call with (list . "intake"). Runs keep these two when Prefect adds its own. */}}
{{- define "microtome.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "microtome.labels" -}}
{{- $top := index . 0 -}}
{{ include "microtome.selector" . }}
app.kubernetes.io/name: microtome
app.kubernetes.io/version: {{ $top.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $top.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $top.Chart.Name $top.Chart.Version }}
{{- end -}}

{{- define "microtome.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "microtome.apiUrl" -}}
{{- .Values.prefect.url | default (printf "http://%s-prefect:4200/api" (include "microtome.name" .)) -}}
{{- end -}}

{{- define "microtome.tokenSecret" -}}
{{- .Values.intake.existingSecret | default (printf "%s-intake" (include "microtome.name" .)) -}}
{{- end -}}

{{- define "microtome.claim" -}}
{{- .Values.storage.claim.existing | default (printf "%s-data" (include "microtome.name" .)) -}}
{{- end -}}

{{- define "microtome.priority" -}}
{{- $top := index . 0 -}}
{{- if $top.Values.priorityClasses.create -}}
{{ include "microtome.name" $top }}-{{ index . 1 }}
{{- else -}}
{{ get $top.Values.priorityClasses (index . 1) }}
{{- end -}}
{{- end -}}

{{/* The part of a pod's spec that all pods share: call with (list . "intake" "service"), the last one a priority. */}}
{{- define "microtome.pod" -}}
{{- $top := index . 0 -}}
{{- $part := index . 1 -}}
serviceAccountName: {{ include "microtome.name" $top }}-{{ $part }}
automountServiceAccountToken: {{ or (has $part (list "worker" "settle")) (and (eq $part "run") (eq $top.Values.dask.mode "per-run")) }}
enableServiceLinks: false
{{- with include "microtome.priority" (list $top (index . 2)) }}
priorityClassName: {{ . }}
{{- end }}
{{- with $top.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ toYaml $top.Values.podSecurityContext | nindent 2 }}
{{- with $top.Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $top.Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "microtome.selector" (list $top $part) | nindent 8 }}
{{- end -}}

{{- define "microtome.container" -}}
image: {{ include "microtome.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Where everything is, for every part that reads slides or talks to Prefect. */}}
{{- define "microtome.env" -}}
- name: PREFECT_API_URL
  value: {{ include "microtome.apiUrl" . }}
- name: PREFECT_CLIENT_MAX_RETRIES
  value: "10"
- name: MICROTOME_SOURCES
  value: {{ join "," .Values.storage.sources | quote }}
- name: MICROTOME_OUTPUT
  value: {{ .Values.storage.output | quote }}
{{- range $name, $value := .Values.storage.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Credentials: of the store, and of a Prefect that asks for them. */}}
{{- define "microtome.envFrom" -}}
{{- with .Values.credentials.existingSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- if .Values.credentials.externalSecret.enabled }}
- secretRef:
    name: {{ include "microtome.name" . }}-credentials
{{- end }}
{{- with .Values.prefect.existingSecret }}
- secretRef:
    name: {{ . }}
{{- end }}
{{- end -}}

{{- define "microtome.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.storage.claim.enabled }}
- name: data
  mountPath: {{ .Values.storage.claim.mountPath }}
{{- end }}
{{- end -}}

{{- define "microtome.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ .Values.tmpSize }}
{{- if .Values.storage.claim.enabled }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "microtome.claim" . }}
{{- end }}
{{- end -}}
