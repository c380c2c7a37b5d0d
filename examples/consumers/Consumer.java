// A consumer of the orders, on kafka-clients and nothing else. What it promises hangs on two lines: when it commits, and
// whether its charge carries a key. `good.toml` starts it with both right, `lossy.toml` with the commit too early.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.StringDeserializer;

public final class Consumer {
    private static final Map<String, String> ENV = System.getenv();
    private static final HttpClient HTTP = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1)       // else it asks for HTTP/2 first, and the answer is 400
            .connectTimeout(Duration.ofSeconds(2)).build();
    private static final URI CHARGES = URI.create(ENV.get("LAB_PROVIDER") + "/v1/charges");

    public static void main(String[] words) throws Exception {
        boolean commitsFirst = List.of(words).contains("commit-first");
        Properties settings = new Properties();
        settings.put("bootstrap.servers", ENV.get("LAB_KAFKA"));
        settings.put("group.id", ENV.get("LAB_GROUP"));
        settings.put("enable.auto.commit", "false");
        settings.put("auto.offset.reset", "none");      // the lab has set the start: a missing offset is an error
        settings.put("isolation.level", "read_committed");
        settings.put("session.timeout.ms", "6000");
        settings.put("heartbeat.interval.ms", "1000");
        settings.put("max.poll.records", "50");
        try (KafkaConsumer<String, String> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(ENV.get("LAB_TOPICS").split(",")));
            while (true) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                if (commitsFirst) {
                    consumer.commitSync();              // a crash from here on loses what was just polled
                }
                for (ConsumerRecord<String, String> record : records) {
                    if (header(record, "lab-effects").contains("charge")) {
                        charge(record);
                    }
                }
                if (!commitsFirst && !records.isEmpty()) {
                    consumer.commitSync();              // a crash before this brings the records again
                }
            }
        }
    }

    /** Charges until the provider has answered. The message's id is the key: a repeat is the same charge. */
    private static void charge(ConsumerRecord<String, String> record) throws InterruptedException {
        String id = header(record, "ce_id");
        String body = "{\"account\":\"" + ENV.get("LAB_ACCOUNT") + "\",\"message_id\":\"" + id + "\",\"customer_id\":\""
                + record.key() + "\",\"amount_cents\":" + field(record.value(), "amount_cents", "[0-9]+")
                + ",\"currency\":\"" + field(record.value(), "currency", "\"([A-Z]+)\"") + "\"}";
        HttpRequest request = HttpRequest.newBuilder(CHARGES).timeout(Duration.ofSeconds(2))
                .header("Content-Type", "application/json")
                .header("Idempotency-Key", id)
                .header("Lab-Record", record.topic() + "/" + record.partition() + "/" + record.offset())
                .POST(HttpRequest.BodyPublishers.ofString(body)).build();
        while (true) {
            try {
                int status = HTTP.send(request, HttpResponse.BodyHandlers.discarding()).statusCode();
                if (status < 300) {
                    return;
                }
                System.err.println("charge " + id + ": " + status);
                if (status < 500 && status != 408 && status != 409 && status != 425 && status != 429) {
                    return;                             // it would be refused for ever: somebody must look at the log
                }
            } catch (java.io.IOException unanswered) {
                System.err.println("charge " + id + ": " + unanswered);
            }
            Thread.sleep(200);
        }
    }

    private static String header(ConsumerRecord<String, String> record, String name) {
        Header header = record.headers().lastHeader(name);
        return header == null ? "" : new String(header.value(), StandardCharsets.UTF_8);
    }

    private static String field(String json, String name, String value) {
        Matcher matcher = Pattern.compile("\"" + name + "\"\\s*:\\s*" + value).matcher(json);
        if (!matcher.find()) {
            throw new IllegalArgumentException("no " + name + " in " + json);
        }
        String found = matcher.groupCount() > 0 ? matcher.group(1) : matcher.group();
        return found.substring(found.lastIndexOf(':') + 1).strip();
    }
}
