# Is the broker ready? The question of services/stack/probes.py: ApiVersions v0, answered without an error.
# The image's own kafka-broker-api-versions.sh starts a JVM each time, which takes a core for seconds.
exec 3<>/dev/tcp/127.0.0.1/"${1:-9092}" || exit 1
printf '\0\0\0\12\0\22\0\0\0\0\0\1\377\377' >&3
[ "$(head -c 10 <&3 | tail -c 6 | od -An -tx1 | tr -d ' \n')" = 000000010000 ]
