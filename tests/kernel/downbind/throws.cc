// C++ exceptions, threads and clocks of the newer libstdc++, whose unwinder asks _dl_find_object.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

extern "C" void through_library(void (*call)(int), int value);

struct Guard {
	int *count;
	~Guard() { ++*count; }
};

static thread_local std::string text = "thread";

static void thrower(int value)
{
	throw std::runtime_error("thrown " + std::to_string(value));
}

static int deep(int depth, int *count)
{
	Guard guard{count};

	if (!depth)
		through_library(thrower, 7);
	return deep(depth - 1, count) + 1;
}

static int compare(const void *, const void *)
{
	throw 5;
}

int main()
{
	int count = 0;

	try {
		deep(50, &count);
	} catch (const std::exception &error) {
		std::printf("%s, %d frames unwound\n", error.what(), count);
	}
	std::vector<std::future<int>> futures;
	for (int i = 0; i < 8; i++)
		futures.push_back(std::async(std::launch::async, [i] {
			int total = 0;
			for (int j = 0; j < 2000; j++)
				try {
					through_library(thrower, i);
				} catch (const std::runtime_error &) {
					total++;
				}
			if (i == 7)
				throw std::logic_error("out of a thread");
			return total;
		}));
	for (auto &future : futures)
		try {
			std::printf("%d ", future.get());
		} catch (const std::logic_error &error) {
			std::printf("%s\n", error.what());
		}
	std::mutex mutex;
	std::condition_variable condition;
	std::atomic<bool> done{false};
	auto begin = std::chrono::steady_clock::now();
	std::unique_lock<std::mutex> lock(mutex);
	bool woken = condition.wait_for(lock, std::chrono::milliseconds(30), [&] { return done.load(); });
	std::printf("timed out %d after enough %d\n", !woken,
		    std::chrono::steady_clock::now() - begin >= std::chrono::milliseconds(30));
	std::thread waker([&] {
		text += " changed";
		std::lock_guard<std::mutex> guard(mutex);
		done = true;
		condition.notify_all();
	});
	woken = condition.wait_for(lock, std::chrono::seconds(20), [&] { return done.load(); });
	lock.unlock();
	waker.join();
	std::printf("woken %d, %s\n", woken, text.c_str());
	std::timed_mutex timed;
	timed.lock();
	std::thread tries([&] { std::printf("timed %d\n", timed.try_lock_for(std::chrono::milliseconds(5))); });
	tries.join();
	timed.unlock();
	std::random_device device;
	std::printf("random %d\n", device() != device() || device() != device());
	int numbers[] = {2, 1};
	try {
		std::qsort(numbers, 2, sizeof(int), compare);
	} catch (int value) {
		std::printf("through qsort %d\n", value);
	}
	std::printf("%ld %lu\n", std::stol("-42"), std::stoul("7"));
	return 0;
}
