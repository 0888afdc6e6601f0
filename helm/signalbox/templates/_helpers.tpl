{{- define "signalbox.labels" -}}
app.kubernetes.io/name: signalbox
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "signalbox.selector" -}}
app.kubernetes.io/name: signalbox
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* An image of ours: prefix, repository and tag. Call with (list . "epp"). */ -}}
{{- define "signalbox.image" -}}
{{- $root := index . 0 -}}
{{- $repository := index $root.Values.images (index . 1) -}}
{{- $digest := index $root.Values.images.digests (index . 1) -}}
{{- if $digest -}}
{{- printf "%s%s@%s" $root.Values.images.prefix $repository $digest -}}
{{- else -}}
{{- printf "%s%s:%s" $root.Values.images.prefix $repository (default $root.Chart.AppVersion $root.Values.images.tag) -}}
{{- end -}}
{{- end }}

{{- define "signalbox.webhookClient" -}}
{{- $root := index . 0 -}}
service:
  name: signalbox-webhook
  namespace: {{ $root.Release.Namespace }}
  path: {{ index . 1 }}
  port: {{ $root.Values.webhook.servicePort }}
{{- end }}
