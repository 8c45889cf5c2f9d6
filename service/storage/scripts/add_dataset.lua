-- Record a data set unless it is there already.
-- KEYS[1]  hash        the data set: fields record, created_at
-- KEYS[2]  sorted set  all data sets by time of creation
-- ARGV[1]  the record, JSON
-- ARGV[2]  the time, ISO 8601
-- ARGV[3]  the time, in microseconds since 1970
-- ARGV[4]  the data set's id
-- Returns  {1} if it was added, {0, record, created_at} of the one that was there otherwise.
-- Invariant: an id stands in the set if and only if its hash has a record.
local existing = redis.call('HMGET', KEYS[1], 'record', 'created_at')
if existing[1] then
  return {0, existing[1], existing[2]}
end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'created_at', ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[4])
return {1}
