import asyncio

from consumer import consume, messages

if __name__ == "__main__":
    assert asyncio.run(consume(messages())) == ["ONE", "TWO", "THREE"]
