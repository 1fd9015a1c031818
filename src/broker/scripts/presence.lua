-- Who is in a channel, less those whose time has passed, who are removed.
-- KEYS  1 sorted set of the times at which members vanish, 2 hash of their data
-- ARGV  1 Unix time in seconds
-- Returns the data of all.
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '0', ARGV[1])
for from = 1, #gone, 1000 do
    local to = math.min(from + 999, #gone)
    redis.call('HDEL', KEYS[2], unpack(gone, from, to))
    redis.call('ZREM', KEYS[1], unpack(gone, from, to))
end
return redis.call('HVALS', KEYS[2])
