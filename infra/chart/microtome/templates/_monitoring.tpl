{{/* Annotations of a pod for a Prometheus that looks for them: call with (list . 9000 "/metrics"). */}}
{{- define "microtome.scrape" -}}
{{- $top := index . 0 -}}
{{- if eq $top.Values.monitoring.scrape "annotations" -}}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ index . 1 | quote }}
  prometheus.io/path: {{ index . 2 }}
{{- end -}}
{{- end -}}

{{/* The job's name, which the rules ask for, and which cluster of Dask a pod belongs to: call with "worker". */}}
{{- define "microtome.relabel" -}}
relabelings:
  - targetLabel: job
    replacement: microtome-{{ . }}
  - sourceLabels: [__meta_kubernetes_pod_label_dask_org_cluster_name]
    targetLabel: dask_cluster
metricRelabelings:
  # When each counter began: twice the series, and nothing asks for it.
  - sourceLabels: [__name__]
    regex: microtome_.+_created
    action: drop
{{- end -}}

{{/* What only the chart knows: how many workers are allowed. */}}
{{- define "microtome.maximumRule" -}}
groups:
  - name: microtome-maximum
    rules:
      - record: cluster:microtome_workers:maximum
        expr: cluster:microtome_workers:count{namespace={{ .Release.Namespace | quote }}} * 0 + {{ int .Values.dask.maximum }}
{{- end -}}
