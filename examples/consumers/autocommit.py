"""The most common mistake: a client with its defaults. It commits on a timer, whatever has been done by then."""

import json
import os
import time
import urllib.error
import urllib.request

from confluent_kafka import Consumer

consumer = Consumer(
    {
        "bootstrap.servers": os.environ["LAB_KAFKA"],
        "group.id": os.environ["LAB_GROUP"],
        # enable.auto.commit is true and auto.commit.interval.ms is 5000 where nobody says otherwise
        "session.timeout.ms": 6000,
    }
)
consumer.subscribe(os.environ["LAB_TOPICS"].split(","))


def charge(headers: dict[str, str], message) -> None:
    body = json.loads(message.value())
    call = {
        "account": os.environ["LAB_ACCOUNT"],
        "message_id": headers["ce_id"],
        "customer_id": message.key().decode(),
        "amount_cents": body["amount_cents"],
        "currency": body["currency"],
    }
    request = urllib.request.Request(
        os.environ["LAB_PROVIDER"] + "/v1/charges",
        data=json.dumps(call).encode(),
        headers={
            "Content-Type": "application/json",
            "Lab-Record": f"{message.topic()}/{message.partition()}/{message.offset()}",
        },
    )
    while True:
        try:
            urllib.request.urlopen(request, timeout=2).close()
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 409, 425, 429):
                return  # refused for ever
        except OSError:
            pass
        else:
            return
        time.sleep(0.2)


while True:
    message = consumer.poll(0.5)
    if message is None or message.error():
        continue
    headers = {name: value.decode() for name, value in message.headers() or [] if value is not None}
    if "charge" in headers.get("lab-effects", ""):
        charge(headers, message)
