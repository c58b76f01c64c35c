{{- define "kubooth.labels" -}}
app.kubernetes.io/name: kubooth
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "kubooth.selector" -}}
app.kubernetes.io/name: kubooth
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* An image: (list $ .Values.operator.image) */ -}}
{{- define "kubooth.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.imageRegistry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end -}}

{{- define "kubooth.serviceAccount" -}}
{{ .Values.serviceAccount.name }}
{{- end -}}

{{- /* A manifest of files/ with the labels of this release. It names the operator's account as the tests have it. */ -}}
{{- define "kubooth.file" -}}
{{- $root := index . 0 -}}
{{- $account := printf "system:serviceaccount:%s:%s" $root.Release.Namespace (include "kubooth.serviceAccount" $root) -}}
{{- $text := $root.Files.Get (index . 1) | replace "system:serviceaccount:kubooth-system:kubooth-operator" $account -}}
{{- range $document := splitList "\n---\n" $text }}
{{- $manifest := fromYaml $document -}}
{{- $labels := merge (include "kubooth.labels" $root | fromYaml) ($manifest.metadata.labels | default dict) -}}
{{- $_ := set $manifest.metadata "labels" $labels }}
---
{{ toYaml $manifest }}
{{- end }}
{{- end -}}

{{- /* Kubooth works once in a cluster: two operators would not share a Lease. */ -}}
{{- define "kubooth.once" -}}
{{- $role := lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" "kubooth-operator" -}}
{{- if $role -}}
{{- $notes := $role.metadata.annotations | default dict -}}
{{- $name := index $notes "meta.helm.sh/release-name" | default "" -}}
{{- $namespace := index $notes "meta.helm.sh/release-namespace" | default "" -}}
{{- if and $name (or (ne $name .Release.Name) (ne $namespace .Release.Namespace)) -}}
{{- fail (printf "Kubooth is installed already, as release %s in namespace %s; one serves the whole cluster: upgrade that one, or uninstall it first" $name $namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
